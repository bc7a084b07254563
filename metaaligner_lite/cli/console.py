"""What the commands share: consoles, JSON output. Results go to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def talk() -> Console:
    """The console for everything that is not the result (stderr); markup in texts is never interpreted."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.soft_wrap = not console.is_terminal  # in a file a note stays one line
    return console


def results() -> Console:
    """The console for results on a terminal (stdout); markup in texts is never interpreted."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout; \\u escapes where the terminal's encoding lacks a character."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def human_bytes(count: float) -> str:
    """A size as people read it: 4.2 MB (powers of ten)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def flagged(text: str) -> str:
    """Text in which the library's parameters, `so_named`, are called as the command line calls them: --so-named."""
    import re

    return re.sub(r"`([a-z_]+)`", lambda match: _FLAGS.get(match[1], "--" + match[1].replace("_", "-")), text)


_FLAGS = {"template": "--chat-template", "cache_bytes": "--cache-size"}

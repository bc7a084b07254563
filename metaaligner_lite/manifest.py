"""The manifest: what made an aligner, and how it wants to be prompted.

Written as metaaligner.json beside a trained folder and, by `mal convert`, as the GGUF metadata key
`metaaligner.manifest` (one JSON text), so that the runtime needs the model file alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import FileProblem
from .files import write_whole
from .generation import Bar

FILE_NAME = "metaaligner.json"
GGUF_KEY = "metaaligner.manifest"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made an artifact. `layout` names the prompt layout an aligner was trained with ("" for a policy)."""

    role: str = "aligner"  # "aligner" or "policy"
    kind: str = "merged"  # "merged" weights, or an "activated" adapter over a base
    layout: str = ""
    objectives: Mapping[str, str] = field(default_factory=dict)  # trained ones: name -> description
    bars: Mapping[str, Any] = field(default_factory=dict)  # objective -> [edges, between], of llama/sure.py
    gates: Mapping[str, Any] = field(default_factory=dict)  # objective -> margin of gate.py, nats per token
    base: str = ""  # the model the training started from
    fingerprint: str = ""  # of that base, whatever its quantization (gguf_file.base_fingerprint); "" if not known
    data: str = ""  # SHA-256 of the training rows
    recipe: Mapping[str, Any] = field(default_factory=dict)  # the effective training settings
    metrics: Mapping[str, float] = field(default_factory=dict)
    conversion: Mapping[str, Any] = field(default_factory=dict)  # filled in by mal convert
    made_by: str = ""  # "metaaligner-lite X.Y.Z"

    def to_json(self) -> str:
        """One JSON text, keys in the order above."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> Manifest:
        """Read a manifest; `source` is named in errors. Raises FileProblem if it is damaged.

        Keys of a later version are ignored on purpose: an older runtime must still run a newer aligner.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise FileProblem(f"{source}: the manifest is not valid JSON ({error}); train or convert again") from error
        if not isinstance(raw, dict):
            raise FileProblem(f"{source}: the manifest is a {type(raw).__name__}, expected a JSON object")
        known: dict[str, Any] = {}
        for name, value in ((f.name, raw[f.name]) for f in dataclasses.fields(cls) if f.name in raw):
            expected = dict if name in _MAPPINGS else str
            if not isinstance(value, expected):
                raise FileProblem(
                    f"{source}: manifest key {name!r} is {type(value).__name__}, expected {expected.__name__}"
                )
            known[name] = value
        for objective, bar in known.get("bars", {}).items():
            if not (isinstance(bar, list) and len(bar) == 2 and all(map(_is_share, bar))):
                raise FileProblem(
                    f"{source}: manifest key 'bars' gives {objective!r} {json.dumps(bar)[:60]}, "
                    "expected two numbers from 0 to 1: for the text's edges, and between its sentences"
                )
        for objective, margin in known.get("gates", {}).items():
            if not (_is_number(margin) and abs(margin) <= _FARTHEST):
                raise FileProblem(
                    f"{source}: manifest key 'gates' gives {objective!r} {json.dumps(margin)[:60]}, "
                    f"expected a number from -{_FARTHEST} to {_FARTHEST}: nats per token"
                )
        return cls(**known)

    def bar(self, objectives: Iterable[str]) -> Bar | None:
        """How sure a copy must be if these objectives are asked for: at each place what the boldest wants."""
        found = [self.bars[name] for name in objectives if name in self.bars]
        return Bar(*map(max, zip(*found, strict=True))) if found else None

    def margin(self, objectives: Iterable[str]) -> float:
        """By how much an edit must be likelier than its answer to pass a gate: what the most lenient asks for."""
        return min((float(self.gates[name]) for name in objectives if name in self.gates), default=0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


_FARTHEST = 100


_MAPPINGS = {"objectives", "bars", "gates", "recipe", "metrics", "conversion"}


def read(folder: Path) -> Manifest | None:
    """The manifest beside a trained model, or None if the folder has none."""
    path = folder / FILE_NAME
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"cannot read {path}: {error}") from error


def write(manifest: Manifest, folder: Path) -> None:
    """Write the manifest beside a trained model."""
    pretty = json.dumps(json.loads(manifest.to_json()), ensure_ascii=False, indent=2)
    write_whole(folder / FILE_NAME, pretty + "\n")

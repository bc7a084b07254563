"""What a run is made of: an interrupted one is gone on with only by the same recipe, data, base and objectives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaaligner_lite.objectives import Objective, builtin_catalogue
from metaaligner_lite.prompts import LAYOUTS

from . import distributed
from .recipe import Recipe

_READ = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}  # what opening a model folder reads
_WHOLE = 64 << 20  # a file up to so many bytes is hashed whole, a larger one in places
_PLACES, _PIECE = 16, 64 << 10


def identity(
    base: Path, data: str, recipe: Recipe, catalogue: Mapping[str, Objective] | None, start: Path | None = None
) -> dict[str, Any]:
    """What must be the same for a run to be gone on with; `data` is the rows' SHA-256."""
    return {
        "recipe": recipe.to_dict(),
        "data": data,
        "base": base.resolve().name,
        "the base's files (hash)": folder_hash(base),
        "the objectives' wordings (hash)": _wordings(builtin_catalogue() if catalogue is None else catalogue),
        "the adapter it starts from (hash)": folder_hash(start) if start else "",
        "processes": distributed.world(),
    }


def folder_hash(base: Path) -> str:
    """A hash of the names, sizes and contents of a model's files; of weights, pieces from end to end."""
    found = hashlib.sha256()
    # What is no folder has no files: reading its tokenizer says so in better words.
    files = [path for path in base.iterdir() if path.suffix in _READ] if base.is_dir() else [base]
    for path in sorted(files):
        if path.is_file():
            size = path.stat().st_size
            found.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if size <= _WHOLE:
                    found.update(file.read())
                    continue
                for i in range(_PLACES):
                    file.seek((size - _PIECE) * i // (_PLACES - 1))
                    found.update(file.read(_PIECE))
    return found.hexdigest()


def _wordings(catalogue: Mapping[str, Objective]) -> str:
    """A hash of the objectives' names and of what prompts say of them."""
    spelled = {
        name: [sorted(objective.aliases), *(objective.worded(layout) for layout in LAYOUTS)]
        for name, objective in catalogue.items()
    }
    return hashlib.sha256(json.dumps(spelled, sort_keys=True).encode()).hexdigest()

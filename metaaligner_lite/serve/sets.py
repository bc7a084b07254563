"""The models that the server names: the pair, the pair with objectives in the name, the policy alone, named sets.

A file of sets (TOML) holds one table for each:

    [gentle]
    objectives = ["empathy", "politeness"]
    gate = true
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MalError, UsageError
from ..files import read_text
from ..objectives import Objective, resolve

ALIGNED, POLICY = "aligned", "policy"
_KEYS: dict[str, type | tuple[type, ...]] = {"objectives": (str, list), "gate": bool, "show": str, "rounds": int}
SHOWN = ("aligned", "both")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a model's name stands for; without objectives the policy's answer is not edited."""

    objectives: tuple[Objective, ...] = ()
    gate: bool = False
    show: str = "aligned"
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Sets:
    """The models by name."""

    default: Chosen
    named: Mapping[str, Chosen]

    @property
    def ids(self) -> list[str]:
        """The names that are listed."""
        return [ALIGNED, POLICY, *self.named]

    def find(self, model: str, catalogue: Mapping[str, Objective]) -> Chosen | None:
        """What a name stands for: `aligned`, `aligned/empathy+clarity`, `policy` or a set; None if nothing."""
        if model == ALIGNED:
            return self.default
        if model == POLICY:
            return Chosen()
        if model in self.named:
            return self.named[model]
        before, _, names = model.partition("/")
        if before != ALIGNED or not names.strip() or ":" in names:
            return None
        try:
            objectives = tuple(resolve(names.split("+"), catalogue))
        except MalError:
            return None
        return Chosen(objectives, self.default.gate, self.default.show, self.default.rounds)


def read_sets(path: Path, catalogue: Mapping[str, Objective], default: Chosen) -> dict[str, Chosen]:
    """The sets in a file; what one leaves out is as in `default`. Raises FileProblem, UsageError that names the key."""
    try:
        tables = tomllib.loads(read_text(path, "the file of sets"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return {name: _set(name, table, str(path), catalogue, default) for name, table in tables.items()}


def _set(name: str, table: Any, source: str, catalogue: Mapping[str, Objective], default: Chosen) -> Chosen:
    where = f"{source}: set {name!r}"
    if not isinstance(table, dict) or "objectives" not in table:
        raise UsageError(f'{where}: expected a table such as [{name}] with a line objectives = ["empathy"]')
    if name in (ALIGNED, POLICY) or name.startswith(f"{ALIGNED}/"):
        raise UsageError(f"{where}: {name!r} is taken; choose another name")
    for key, value in table.items():
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}; expected one of {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or (key == "rounds" and isinstance(value, bool)):
            raise UsageError(f"{where}: {key} cannot be {value!r}")
    show, rounds = table.get("show", default.show), table.get("rounds", default.rounds)
    if show not in SHOWN:
        raise UsageError(f"{where}: show cannot be {show!r}; expected {' or '.join(SHOWN)}")
    if not 1 <= rounds <= 8:
        raise UsageError(f"{where}: rounds cannot be {rounds}; expected 1 to 8")
    try:
        objectives = tuple(resolve(table["objectives"], catalogue))
    except MalError as error:
        raise UsageError(f"{where}: {error}") from error
    return Chosen(objectives, table.get("gate", default.gate), show, rounds)

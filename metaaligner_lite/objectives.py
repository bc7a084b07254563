"""Objectives: a name and one sentence that says what a better answer does. A new one is a new sentence.

They come from the built-in catalogue (catalogue.toml), from a user's catalogue of the same form, or inline
as "name: description". `resolve` turns what a user typed into `Objective` records.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .errors import UsageError
from .files import read_text

_ENTRY_KEYS = {"description", "marker", "aliases", "wording"}
_COLON, _COMMA, _SEMICOLON = re.compile("[:：]"), re.compile("[,，、]"), re.compile("[;；]")
_SEPARATOR = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: `name` as users type it, `description` one sentence, `wording` per prompt layout."""

    name: str
    description: str
    marker: str = ""
    aliases: tuple[str, ...] = ()
    wording: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __hash__(self) -> int:
        return hash(self.name)  # ratings are kept by objective, and there are many

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which takes no read-only mapping: other processes are given objectives, too."""
        return Objective, (self.name, self.description, self.marker, self.aliases, dict(self.wording))

    @property
    def called(self) -> str:
        """How a prompt names it: the marker, or the name with a capital."""
        return self.marker or self.name[:1].upper() + self.name[1:]

    def worded(self, layout: str) -> str:
        """The text a prompt of `layout` uses: "Marker: description", or the layout's recorded wording."""
        return self.wording.get(layout, f"{self.called}: {self.description}")


def resolve(
    requested: str | Iterable[str | Objective], catalogue: Mapping[str, Objective] | None = None
) -> list[Objective]:
    """The objectives a user named, in their order: names, aliases or inline "name: description".

    A string is a list separated by commas. An inline description may hold commas itself; it ends before a semicolon
    behind which another objective is named, by a known name (or nearly one) or a new "name: description":
    "clarity, calm: The response should be calm, not loud; no exclamation marks; brevity" names three.
    Full-width colons, commas and semicolons separate like the plain ones.
    Raises UsageError for an unknown name (with the nearest known one), a repeated one, or none at all.
    """
    known = builtin_catalogue() if catalogue is None else catalogue
    index = _index(known)
    wanted = _split(requested, index) if isinstance(requested, str) else list(requested)
    found: list[Objective] = []
    for item in wanted:
        objective = item if isinstance(item, Objective) else _one(item, index)
        if any(objective.name == other.name for other in found):
            raise UsageError(f"objective {objective.name!r} is named twice; name each objective once")
        found.append(objective)
    if not found:
        raise UsageError(
            'no objective given; name at least one, such as --objectives "empathy,clarity" (list: mal objectives list)'
        )
    return found


@cache
def builtin_catalogue() -> Mapping[str, Objective]:
    """The built-in objectives by name, in the order of catalogue.toml."""
    text = (files("metaaligner_lite") / "catalogue.toml").read_text(encoding="utf-8")
    return MappingProxyType(_parse(text, "catalogue.toml"))


def load_catalogue(path: Path | None = None) -> Mapping[str, Objective]:
    """The built-in objectives plus those of a user's TOML file; a user's entry replaces a built-in one.

    Without `path`: the file named by MAL_OBJECTIVES, else objectives.toml in the user's settings folder, else
    none. Raises FileProblem if a named file cannot be read, UsageError for what is wrong inside it.
    """
    from .paths import config_dir

    named = path or (Path(os.environ["MAL_OBJECTIVES"]) if os.environ.get("MAL_OBJECTIVES") else None)
    if named is None:
        default = config_dir() / "objectives.toml"
        if not default.is_file():
            return builtin_catalogue()
        named = default
    text = read_text(named, "the objectives file")
    merged = dict(builtin_catalogue())
    merged.update(_parse(text, str(named)))
    _index(merged, str(named))
    return MappingProxyType(merged)


def _parse(text: str, source: str) -> dict[str, Objective]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}") from error
    return {name: _entry(name, table, source) for name, table in tables.items()}


def _entry(name: str, table: Any, source: str) -> Objective:
    where = f"{source}: objective {name!r}"
    if not isinstance(table, dict):
        raise UsageError(f'{where}: expected a table such as [{name}] with a line description = "..."')
    unknown = sorted(set(table) - _ENTRY_KEYS)
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; expected one of {', '.join(sorted(_ENTRY_KEYS))}")
    description, aliases, wording = table.get("description"), table.get("aliases", []), table.get("wording", {})
    if not isinstance(description, str) or not description.strip():
        raise UsageError(f'{where}: needs a line description = "The response should ..."')
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise UsageError(f"{where}: aliases must be a list of names")
    if not isinstance(wording, dict) or not all(isinstance(text, str) for text in wording.values()):
        raise UsageError(f"{where}: wording must be a table of layout = text")
    marker = table.get("marker", "")
    if not isinstance(marker, str):
        raise UsageError(f"{where}: marker must be a text")
    return Objective(name, description.strip(), marker, tuple(aliases), MappingProxyType(dict(wording)))


def _key(name: str) -> str:
    return _SEPARATOR.sub(" ", name.strip()).casefold()


def _index(catalogue: Mapping[str, Objective], source: str = "catalogue") -> dict[str, Objective]:
    """Every name and alias in its compared form. Names win over aliases; two objectives never share one."""
    index = {_key(name): objective for name, objective in catalogue.items()}
    for objective in catalogue.values():
        for alias in objective.aliases:
            other = index.setdefault(_key(alias), objective)
            if other is not objective and other.name != objective.name:
                raise UsageError(f"{source}: {alias!r} names both {other.name!r} and {objective.name!r}; remove one")
    return index


def _split(text: str, index: Mapping[str, Objective]) -> list[str]:
    """The items of a list, each a name or an inline "name: description" with the semicolons that are its own."""
    items: list[str] = []
    described = False  # whether the last item has a description, which may go on
    first, *rest = re.split(f"({_SEMICOLON.pattern})", text)
    for mark, part in [("", first), *zip(rest[::2], rest[1::2], strict=True)]:
        head, *description = _COLON.split(part, maxsplit=1)
        *names, last = _COMMA.split(head)
        if described and part.strip() and not description and not all(_nearly(name, index) for name in [*names, last]):
            items[-1] += mark + part
            continue
        if described and not part.strip():
            continue
        items += names
        items.append(f"{last}:{description[0]}" if description else last)
        described = bool(description)
    return [item.strip() for item in items if item.strip()]


def _nearly(name: str, index: Mapping[str, Objective]) -> bool:
    """Whether a text is a known name, or was probably meant as one (nothing between two commas counts too)."""
    key = _key(name)
    return not key or key in index or bool(difflib.get_close_matches(key, index, n=1, cutoff=0.8))


def _one(item: str, index: Mapping[str, Objective]) -> Objective:
    name, *inline = (part.strip() for part in _COLON.split(item, maxsplit=1))
    if inline:
        (description,) = inline
        if not name or not description:
            raise UsageError(f'inline objective {item!r}: expected "name: The response should ..."')
        return Objective(name, description)
    objective = index.get(_key(name))
    if objective is None:
        near = difflib.get_close_matches(_key(name), index, n=1, cutoff=0.6)
        hint = f"did you mean {index[near[0]].name!r}? " if near else ""
        raise UsageError(
            f"unknown objective {name!r}; {hint}"
            f'`mal objectives list` shows the known ones, and "{name}: The response should ..." defines a new one'
        )
    return objective

"""Steps that are done once: each keeps its result in a folder of its own, under a key of all that decides it.

    WORK/NAME/begun.json   the key a step was begun with, and the seconds spent on it so far
    WORK/NAME/done.json    the key, the result, what it took; written last

A step whose key is that of its done.json is not done again. A killed one is begun again in the folder as it was left:
trainings go on from their checkpoint, edits behind the last one written. Another key empties the folder first, unless
what lies in it tells by itself what it is of (`keeps`).
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import UsageError
from metaaligner_lite.files import recall, write_whole

Do = Callable[[Path, "Needed"], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: into its folder, from what it needs, to a result that JSON can hold."""

    name: str
    do: Do
    needs: tuple[str, ...] = ()
    settings: Any = None  # what decides the result beside what is needed; JSON
    about: str = ""
    keeps: bool = False  # its files are told apart by what they hold: they serve other settings, too


@dataclass(frozen=True, slots=True)
class Done:
    """What a finished step left: its result, and what it took in all its parts."""

    key: str
    result: Any
    seconds: float
    processor: float  # seconds of all threads; of the last part alone where earlier ones were killed
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Needed:
    """The results and folders of what a step said it needs, and of nothing else."""

    steps: Steps
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.steps.result(self._checked(name))

    def folder(self, name: str) -> Path:
        """Where its files lie."""
        return self.steps.folder(self._checked(name))

    def _checked(self, name: str) -> str:
        if name not in self.names:
            raise KeyError(f"{name} is not among the needs of this step: {', '.join(self.names)}")
        return name


class Steps:
    """All steps of a plan, in an order in which every one comes behind what it needs."""

    def __init__(self, steps: Sequence[Step], work: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self._steps: dict[str, Step] = {}
        self._keys: dict[str, str] = {}
        self._work, self._say = work, say
        for step in steps:
            if missing := [name for name in step.needs if name not in self._steps]:
                raise ValueError(f"{step.name} needs {missing[0]}, which does not come before it")
            self._steps[step.name] = step

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def folder(self, name: str) -> Path:
        """Where the files of a step lie."""
        return self._work / name

    def key(self, name: str) -> str:
        """A hash of a step's settings and of those of all it needs."""
        if name not in self._keys:
            step = self._steps[name]
            told = [name, step.settings, [self.key(need) for need in step.needs]]
            self._keys[name] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        return self._keys[name]

    def done(self, name: str) -> Done | None:
        """What a finished step left, None if it is still to be done, or was done with other settings."""
        found = recall(self.folder(name) / "done.json")
        return Done(**found) if found.get("key") == self.key(name) else None

    def result(self, name: str) -> Any:
        """The result of a finished step."""
        if (done := self.done(name)) is None:
            raise KeyError(f"{name} is not done")
        return done.result

    def run(self, only: Sequence[str] = ()) -> None:
        """Do what is not done: the steps of these names or patterns and what they need; without any, all steps.

        Raises UsageError for a pattern that names none.
        """
        wanted = self._wanted(only)
        for number, step in enumerate(wanted, 1):
            if self.done(step.name) is None:
                self._say(f"[{number}/{len(wanted)}] {step.name}: {step.about}")
                self._do(step)

    def _wanted(self, only: Sequence[str]) -> list[Step]:
        if not only:
            return list(self)
        names: set[str] = set()
        for pattern in only:
            found = fnmatch.filter(self._steps, pattern)
            if not found:
                raise UsageError(f"no step is called {pattern}; --list shows them: {', '.join(self._steps)}")
            names.update(found)
        for step in reversed(self._steps.values()):
            if step.name in names:
                names.update(step.needs)
        return [step for step in self if step.name in names]

    def _do(self, step: Step) -> None:
        folder, key = self.folder(step.name), self.key(step.name)
        begun = recall(folder / "begun.json")
        if folder.exists() and begun.get("key") != key:
            if not step.keeps:
                shutil.rmtree(folder)
            begun = {}
        folder.mkdir(parents=True, exist_ok=True)
        spent, parts = begun.get("seconds", 0.0), begun.get("parts", 0) + 1
        write_whole(folder / "begun.json", json.dumps({"key": key, "seconds": spent, "parts": parts}))
        clock, processor = time.perf_counter(), time.process_time()
        result = None
        try:
            result = step.do(folder, Needed(self, step.needs))
        finally:
            spent += time.perf_counter() - clock
            write_whole(folder / "begun.json", json.dumps({"key": key, "seconds": spent, "parts": parts}))
        taken = Done(key, result, round(spent, 2), round(time.process_time() - processor, 2), parts)
        write_whole(folder / "done.json", json.dumps(asdict(taken), indent=1, ensure_ascii=False))
        self._say(f"{step.name}: done in {taken.seconds:.0f} s")

    def listing(self) -> Iterator[str]:
        """One line for each step: whether it is done, how long it took, what it is."""
        width = max(len(step.name) for step in self) + 2
        for step in self:
            done, begun = self.done(step.name), recall(self.folder(step.name) / "begun.json")
            state, seconds = "to do", ""
            if done:
                state, seconds = "done", f"{done.seconds:.0f} s"
            elif begun.get("key") == self.key(step.name):
                state, seconds = "begun", f"{begun.get('seconds', 0):.0f} s"
            elif begun:
                state = "other settings"
            yield f"{step.name:<{width}}{state:<16}{seconds:>8}  {step.about}"

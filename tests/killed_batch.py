"""A batch that kills itself at a moment: run by test_batch.py in a process of its own.

    python tests/killed_batch.py MODEL IN OUT AFTER HOW

At its so-many-th write to the journal (0: never) the process dies: HOW 0 before it, 1 in the middle of it, 2 behind it
and before its sync. HOW 3 and 4: once the output is written, before it has its name and after that.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from metaaligner_lite import journal
from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.batch import Job, run, survey
from metaaligner_lite.llama.engine import open_engine
from metaaligner_lite.objectives import resolve
from metaaligner_lite.pair import Pair
from metaaligner_lite.policies import GgufPolicy
from metaaligner_lite.prompts import CONVERSATION
from metaaligner_lite.rows import Reading


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(after: int, how: int) -> None:
    """Let this process die at a moment."""
    whole, calls = journal.Journal._write, 0
    if after and how > 2:
        replace = Path.replace
        Path.replace = lambda *paths: (how == 4 and replace(*paths), die())
        return

    def write(self: journal.Journal, record: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            if how:
                line = journal.json_line(record)
                self._file.write(line[: len(line) // 2] if how == 1 else line)
            die()
        whole(self, record)

    journal.Journal._write = write


def main() -> None:
    model, source, out, after, how = sys.argv[1:]
    dying(int(after), int(how))
    job = Job(Path(source), Path(out), Reading(objectives=tuple(resolve("empathy"))), in_flight=4, counts=False)
    with open_engine(model, threads=1) as engine:
        pair = Pair(GgufPolicy(engine, max_tokens=6), GgufAligner(engine, layout=CONVERSATION, max_tokens=12))
        run(job, survey(job), pair)


if __name__ == "__main__":
    main()

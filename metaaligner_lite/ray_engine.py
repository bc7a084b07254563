"""The rows of a batch on a Ray cluster, through Ray Data (extra [ray]): each actor holds one pair of models.

The journal stays with the program that was started: a run that is killed goes on, with Ray or without. A worker that
dies is replaced by Ray and its few rows are done again; what goes wrong with a row is its result, not the end of the
run. Model files must have the same names on every machine, and a server's key stands in the workers' own environment.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .many import Case
from .batch import Job, align_rows
from .errors import MalError, ModelError, require_extra
from .objectives import Objective
from .pair import Choice, open_pair
from .records import Record
from .rows import Reading, Row

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 8  # rows that a worker is given at once, for each in flight: what is done again if it dies


class RayRows:
    """Aligns rows on a cluster, as `align_rows` does here; `batch.run` takes it as its engine.

    `workers` actors with so many `cpus` each. The cluster is that of RAY_ADDRESS, or one on this machine for the time
    of the run. Raises MissingExtra without Ray.
    """

    def __init__(self, choice: Choice, objectives: Sequence[Sequence[Objective]], *, workers: int, cpus: int = 1):
        require_extra("ray", "ray", "pyarrow", "pandas")
        policy, aligner, adapter = map(_absolute, (choice.policy, choice.aligner, choice.adapter))
        self.choice = replace(choice, policy=policy, aligner=aligner, adapter=adapter)  # a worker is somewhere else
        self.objectives = [[_plain(one) for one in wanted] for wanted in objectives]
        self.workers, self.cpus = workers, cpus

    def __call__(self, rows: Iterator[Row], job: Job, *, shared: bool, on_done: Callable[[Row, Record], None]) -> None:
        """Do rows; `on_done` gets each with its result. Raises ModelError if the cluster cannot."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        import logging

        import ray

        begun = not ray.is_initialized()
        if begun:
            ray.init(address=os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False, logging_level=logging.ERROR)
        try:
            self._run(rows, job, shared, on_done)
        except ray.exceptions.RayError as error:
            cause = " ".join(str(getattr(error, "cause", None) or error).split())
            raise ModelError(f"the Ray cluster failed: {cause[-300:]}") from error
        finally:
            if begun:
                ray.shutdown()

    def _run(self, rows: Iterator[Row], job: Job, shared: bool, on_done: Callable[[Row, Record], None]) -> None:
        import pyarrow as pa
        import ray

        size = _BLOCK * max(job.in_flight, job.concurrency)
        waiting: dict[int, Row] = {}  # keys and places, no texts: those lie in Ray's store, which spills to the disk
        blocks = []
        while block := list(islice(rows, size)):
            numbers = range(len(waiting), len(waiting) + len(block))
            waiting |= {i: replace(row, record={}, case=Case("", ())) for i, row in zip(numbers, block, strict=True)}
            blocks.append(ray.put(pa.table({"number": list(numbers), "row": [_packed(row) for row in block]})))
        if not blocks:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        done = ray.data.from_arrow_refs(blocks).map_batches(
            Worker,
            fn_constructor_args=(self.choice, self.objectives, replace(job, reading=Reading()), shared),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_cpus=self.cpus,
        )
        for came in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for number, result in zip(came["number"].to_pylist(), came["result"].to_pylist(), strict=True):
                if (row := waiting.pop(number, None)) is not None:
                    on_done(row, json.loads(result))
        if waiting:
            raise ModelError(f"the Ray cluster gave {len(waiting):,} rows no result; run the same again")


class Worker:
    """An actor: one opened pair, and the rows that it is given."""

    def __init__(self, choice: Choice, objectives: Sequence[Sequence[Objective]], job: Job, shared: bool) -> None:
        self._opened = ExitStack()
        self._pair = self._opened.enter_context(open_pair(choice, objectives))
        self._job, self._shared = job, shared

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The result of each row, as JSON."""
        import pyarrow as pa

        numbers = batch["number"].to_pylist()
        rows: list[Row] = [pickle.loads(packed) for packed in batch["row"].to_pylist()]
        place = {id(row): number for row, number in zip(rows, numbers, strict=True)}
        results: dict[int, str] = {}

        def ended(row: Row, result: Record) -> None:
            results[place[id(row)]] = json.dumps(result)

        try:
            align_rows(iter(rows), self._pair, self._job, shared=self._shared, on_done=ended)
        except Exception as error:  # whatever it is, the other rows go on
            kind = type(error).__name__ if isinstance(error, MalError) else "ModelError"
            failed = {"outcome": "failed", "error": {"type": kind, "message": f"{type(error).__name__}: {error}"}}
            for number in numbers:
                results.setdefault(number, json.dumps(failed))
        return pa.table({"number": list(results), "result": list(results.values())})


def _absolute(name: Path | str | None) -> Path | str | None:
    return Path(name).absolute() if name and Path(name).exists() else name


def _packed(row: Row) -> bytes:
    """A row as a worker needs it: its case, in values that can be pickled."""
    assert row.case
    case = replace(row.case, objectives=tuple(_plain(one) for one in row.case.objectives))
    return pickle.dumps(replace(row, record={}, case=case))


def _plain(objective: Objective) -> Objective:
    return replace(objective, wording=dict(objective.wording))

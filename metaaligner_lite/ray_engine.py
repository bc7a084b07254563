"""The rows of a batch on a Ray cluster, through Ray Data (extra [ray]): each worker is an actor that holds one pair.

The journal stays with the program that was started, so that a run which was killed goes on, with Ray or without. Ray's
own checkpoints are not used: they want a file system that all machines share, and an output that Ray writes itself.
A worker that dies is replaced by Ray and the few rows it had are done again; a row that no worker survives fails. Rows
that wait lie in Ray's object store, which spills to the disk.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch import Job, align_rows, at_once, result_of
from .errors import ModelError, require_extra
from .many import Case
from .pair import Choice, Pair, open_pair
from .records import Record
from .rows import Reading, Row

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 4  # rows that a worker is given at once, for each it does side by side: what is done again if it dies
_NO_CASE = Case("", ())  # of a row whose texts are elsewhere
_ALONE = 2  # times that a row may be begun alone, after its worker died
_DEADLY = f"{_ALONE + 1} workers died while they did this row; Ray's logs on their machines may tell why"


class RayRows:
    """Does rows on a cluster as `align_rows` does them here; `batch.run` takes it as its `do`.

    There are `workers` actors, each with so many `cpus` and so much of a GPU. The cluster is that of RAY_ADDRESS, else
    one on this machine for the time of the run. Files and packages must be on every machine under the same names, and a
    server's key in the environment there. Raises MissingExtra without Ray.
    """

    def __init__(
        self,
        choice: Choice,
        *,
        workers: int = 2,
        cpus: int = 1,
        gpus: float = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_extra("ray", "ray", "pyarrow", "pandas")
        policy, aligner, adapter = map(_absolute, (choice.policy, choice.aligner, choice.adapter))
        self.choice = replace(choice, policy=policy, aligner=aligner, adapter=adapter)
        self.workers, self.cpus, self.gpus, self._say = workers, cpus, gpus, say

    def __call__(
        self, rows: Iterator[Row], pair: Pair, job: Job, *, shared: bool, on_done: Callable[[Row, Record], None]
    ) -> None:
        """Do rows with pairs like this one. Raises ModelError if the cluster cannot be reached, or no worker begins."""
        size = _BLOCK * at_once(pair, job)
        blocks = iter(lambda: list(islice(rows, size)), [])
        if (first := next(blocks, None)) is None:
            return
        with self._cluster() as ray:
            waiting: dict[bytes, Row] = {}  # keys and places, no texts
            refs = []
            for block in chain([first], blocks):
                waiting |= {row.key: replace(row, record={}, case=_NO_CASE) for row in block}
                refs.append(ray.put(_table((row.key, pickle.dumps(replace(row, record={}))) for row in block)))
            context = ray.data.DataContext.get_current().copy()
            context.enable_progress_bars = context.print_on_execution_start = False
            with ray.data.DataContext.current(context):
                begun = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Begun).remote()
                done = ray.data.from_arrow_refs(refs).map_batches(
                    Worker,
                    fn_constructor_args=(self.choice, replace(job, reading=Reading()), shared, begun),
                    batch_size=size,
                    batch_format="pyarrow",
                    compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=1),
                    num_cpus=self.cpus,
                    num_gpus=self.gpus,
                )
                try:
                    for came in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                        for key, result in _pairs(came):
                            if row := waiting.pop(key, None):
                                on_done(row, json.loads(result))
                except ray.exceptions.RayError as error:
                    raise ModelError(f"the Ray cluster failed: {_cause(error)}") from error
        if waiting:
            raise ModelError(f"the Ray cluster gave {len(waiting):,} rows no result; run the same again")

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Ray, connected; what it cannot do is a ModelError."""
        import logging

        address = os.environ.get("RAY_ADDRESS", "")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        own: dict[str, Any] = {"address": address}
        if address:
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # one attempt, of some 45 seconds
        else:  # as many as are asked for: on one machine that is the user's to decide
            own = {"address": "local", "num_cpus": self.workers * self.cpus, "include_dashboard": False}
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray tells of itself and mends itself
        import ray
        import ray.data  # which sets up its logger

        if ray.is_initialized():
            yield ray
            return
        with redirect_stdout(sys.stderr):  # where Ray tells of workers that died
            try:
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **own)
                logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run is raised, too
            except Exception as error:  # Ray raises just that
                ray.shutdown()
                where = f"at {address}" if address else "began"
                raise ModelError(f"no Ray cluster {where}: {_cause(error)}") from error
            try:
                self._tell(ray, address)
                yield ray
            finally:
                ray.shutdown()

    def _tell(self, ray: Any, address: str) -> None:
        wanted = {name: count for name, count in (("CPU", self.cpus), ("GPU", self.gpus)) if count}
        told = " and ".join(f"{count:g} {name}{'s' * (count > 1)}" for name, count in wanted.items())
        where = f"on the Ray cluster at {address}" if address else "of a Ray cluster on this machine"
        self._say(f"rows are done by {self.workers} workers {where}, with {told} each")
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(one.get(name, 0) >= count for name, count in wanted.items()) for one in machines):
            self._say(f"no machine of the cluster has {told}: waiting until one joins")


class Begun:
    """An actor: how often what was begun and not ended. It does nothing that could kill it, and outlives workers."""

    def __init__(self) -> None:
        self._times: Counter[bytes] = Counter()

    def count(self, key: bytes, more: int) -> int:
        """So many times more (or less); how many that makes."""
        self._times[key] += more
        return self._times[key]


class Worker:
    """An actor: one opened pair, and the rows that it is given."""

    def __init__(self, choice: Choice, job: Job, shared: bool, begun: Any) -> None:
        self._opened = ExitStack()  # to the end of the process
        self._pair = self._opened.enter_context(open_pair(choice))
        self._job, self._shared, self._begun = job, shared, begun

    def __call__(self, block: pa.Table) -> pa.Table:
        """The result of each row, as JSON, by its key."""
        rows: list[Row] = [pickle.loads(packed) for _, packed in _pairs(block)]
        results: dict[bytes, Record] = {}
        if self._times(b"block of " + rows[0].key) == 1:
            self._align(rows, results)
        else:  # a worker died: of which row, if of any?
            for row in rows:
                if self._times(row.key) > _ALONE:
                    results[row.key] = result_of(ModelError(_DEADLY))
                else:
                    self._align([row], results)
                    self._times(row.key, -1)
        return _table((key, json.dumps(result).encode()) for key, result in results.items())

    def _align(self, rows: list[Row], results: dict[bytes, Record]) -> None:
        def ended(row: Row, result: Record) -> None:
            results[row.key] = result

        try:
            align_rows(iter(rows), self._pair, self._job, shared=self._shared, on_done=ended)
        except Exception as error:  # whatever it is, the other rows go on
            results |= {row.key: result_of(error) for row in rows if row.key not in results}

    def _times(self, key: bytes, more: int = 1) -> int:
        import ray

        times: int = ray.get(self._begun.count.remote(key, more))
        return times


def _cause(error: Exception) -> str:
    """The last line of what Ray tells: where a worker failed, that is its own error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


def _table(pairs: Iterable[tuple[bytes, bytes]]) -> pa.Table:
    import pyarrow as pa

    keys, values = zip(*pairs, strict=True)
    return pa.table({"key": pa.array(keys, pa.binary()), "value": pa.array(values, pa.large_binary())})


def _pairs(table: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    return zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True)


def _absolute(name: Path | str | None) -> Path | str | None:
    """A file by its whole name: a worker runs in another folder."""
    return Path(name).absolute() if name and Path(name).exists() else name

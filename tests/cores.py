"""The cores that the tests of one process run on. conftest.py imports this first: OpenMP and BLAS look once.

Under pytest-xdist every worker keeps to cores of its own, and its threads and children with it: what measures time, or
takes as many threads as there are, runs as if it were alone on a smaller machine.
"""

from __future__ import annotations

import os

from metaaligner_lite.llama.machine import bound_spinning, hardware_threads


def workers() -> int:
    """One for each core; torch and its company take a gigabyte in each."""
    return min(hardware_threads(), 8)


def keep_to_a_share(name: str, count: int) -> None:
    """Leave a worker, `gw0` or `gw1`, its share of the cores; where the system cannot, torch its share of threads."""
    share = max(1, hardware_threads() // count)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        first = int(name.removeprefix("gw")) * share
        os.sched_setaffinity(0, {cores[n % len(cores)] for n in range(first, first + share)})
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(share))


bound_spinning()
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    keep_to_a_share(worker, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))

"""What Prometheus may read: requests, tokens, seconds, the queue."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .answers import about
from .protocol import Refused
from .worker import Job, Result, Workers

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The counters of one server."""

    def __init__(self, workers: Workers) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter("mal_requests", "Requests by what became of them", ["outcome"], registry=self.registry)
        self._tokens = Counter(
            "mal_tokens", "Tokens by stage and by how they came", ["stage", "kind"], registry=self.registry
        )
        self._seconds = Histogram(
            "mal_request_seconds", "From the request to its end", registry=self.registry, buckets=_SECONDS
        )
        for name, told, value in (
            ("mal_requests_running", "Requests being worked on", lambda: workers.running),
            ("mal_requests_waiting", "Requests in the queue", lambda: workers.waiting),
        ):
            Gauge(name, told, registry=self.registry).set_function(value)
        workers.on_end.append(self.count)

    def count(self, job: Job, result: Result | Refused) -> None:
        """Take note of a job that has ended."""
        self._ended.labels(_outcome(job, result)).inc()
        self._seconds.observe(time.monotonic() - job.begun)
        if isinstance(result, Result):
            for stage, counts in about(result)["stages"].items():
                for kind in ("read", "reused", "written", "copied"):
                    self._tokens.labels(stage, kind).inc(counts[kind])

    def text(self) -> bytes:
        """All of it, in Prometheus' own form."""
        return generate_latest(self.registry)


def _outcome(job: Job, result: Result | Refused) -> str:
    if job.cancelled:
        return "cancelled"
    if isinstance(result, Refused):
        return "error"
    if result.correction is None:
        return "answered"
    return "aligned" if result.correction.aligned else "failed" if result.failure else "kept"

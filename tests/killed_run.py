"""Kill training at many moments, resume it, and compare: run by test_train_runs.py in a process of its own.

    python tests/killed_run.py BASE DATA RECIPE FOLDER

Each run is a fork of this process, which has only imported things, so that a dozen of them cost no more than one.
"""

# ruff: noqa: TID253 (imported once, before the forks)

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import safetensors.torch
import torch
from transformers import Trainer
from transformers.trainer_callback import TrainerState

from mal_train import progress, recipe, run, stage, workdir

Moment = Callable[[], Any]


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(progress.Silent):
    def __init__(self, name: str, step: int) -> None:
        self.at = name, step

    def step(self, step: progress.Step) -> None:
        if (step.stage, step.step) == self.at:
            die()


@contextmanager
def dying(owner: Any, name: str, call: int, before: Callable[..., Any] | None = None) -> Iterator[None]:
    """Die at the so-many-th call of a function, in place of it or after `before` did a part of its work."""
    original, calls = getattr(owner, name), count(1)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if next(calls) < call:
            return original(*args, **kwargs)
        if before:
            before(original, *args, **kwargs)
        return die()

    with mock.patch.object(owner, name, patched):
        yield


def half(original: Callable[..., Any], state: Any, path: str) -> None:
    original(state, path)
    os.truncate(path, os.path.getsize(path) // 2)


def part_of(original: Callable[..., Any], state: Any, path: Path, **options: Any) -> None:
    original(state, path, **options)
    os.truncate(path, os.path.getsize(path) // 2)


def begun(original: Callable[..., Any], adapter: Path, base: Path, out: Path, *_: Any) -> None:
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"half of it")


MOMENTS: dict[str, Moment] = {
    "in the first step": lambda: mock.patch.object(stage, "collate", die),
    "while the weights of a checkpoint are written": lambda: dying(peft.peft_model, "safe_save_file", 2, part_of),
    "while the weights of a stage are written": lambda: dying(safetensors.torch, "save_file", 2, part_of),
    "while the optimizer of a checkpoint is written": lambda: dying(Trainer, "_save_optimizer_and_scheduler", 3),
    "while the random state of a checkpoint is written": lambda: dying(Trainer, "_save_rng_state", 2),
    "while the state of a checkpoint is written": lambda: dying(TrainerState, "save_to_json", 4, half),
    "while the adapter of a stage is written": lambda: dying(stage, "_save", 2),
    "after a stage, before it is marked as done": lambda: dying(stage, "write_whole", 2),
    "while merging": lambda: dying(run, "merge", 1, begun),
    "before the report": lambda: dying(run.report, "write_report", 1),
    "before the result is put in its place": lambda: dying(workdir, "finish", 1),
}


def forked(work: Callable[[], Any]) -> int:
    """Do this in a fork; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        torch.set_num_threads(1)
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main(base: Path, data: Path, toml: Path, folder: Path) -> None:
    settings = recipe.load(toml)

    def train(out: str, **options: Any) -> None:
        run.train(base, data, folder / out, settings, **options)

    def files(out: str) -> dict[str, bytes]:
        found = folder / out / "adapter" / "adapter_model.safetensors", folder / out / "merged" / "model.safetensors"
        return {path.name: path.read_bytes() for path in found}

    def killed(out: str, moment: Moment) -> None:
        with moment():
            train(out)

    assert forked(lambda: train("whole")) == 0
    for number, (name, moment) in enumerate(MOMENTS.items()):
        out = f"killed-{number}"
        assert os.WTERMSIG(forked(lambda out=out, moment=moment: killed(out, moment))) == signal.SIGKILL, name
        assert not (folder / out).exists() and (folder / f"{out}.part").exists(), name
        assert forked(lambda out=out: train(out, resume=True)) == 0, name
        assert files(out) == files("whole"), f"another result after a kill {name}"
        assert not (folder / f"{out}.part").exists() and not (folder / out / "stages").exists(), name
        print(f"the same, bit for bit, after a kill {name}")
    for name, step in (("equal", 2), ("contrastive", 1), ("contrastive", 4)):
        out = f"killed-at-{name}-{step}"
        status = forked(lambda out=out, name=name, step=step: train(out, progress=DieAt(name, step)))
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert forked(lambda out=out: train(out, resume=True)) == 0
        assert files(out) == files("whole"), f"another result after a kill at {name} {step}"
        print(f"the same, bit for bit, after a kill at step {step} of {name}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

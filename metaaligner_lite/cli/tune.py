"""`mal tune`: measure once what suits a model on this machine; every later run uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    model: Annotated[Path, typer.Argument(help="A GGUF model; others of the same shape and types share the result.")],
    gpu_layers: Annotated[
        int,
        typer.Option("--gpu-layers", min=-1, envvar="MAL_GPU_LAYERS", help="Layers on a GPU, if any; -1 is all."),
    ] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure flash attention, threads, repacking and batch costs for MODEL (under a minute) and remember the best.

    Run it while the machine has nothing else to do. Flags such as --threads still go first.
    """
    from dataclasses import asdict

    from ..gguf_file import read_header
    from ..llama.tune import Trial, measure, remember
    from .console import print_json, talk

    header = read_header(model)
    console = talk()

    def show(trial: Trial) -> None:
        settings = f"flash attention {_on(trial.flash)}, {trial.threads} threads, repacking {_on(trial.repack)}"
        console.print(f"{settings}: {trial.seconds:.3f} s", style="dim")

    tuning, trials = measure(model, gpu_layers=gpu_layers, on_trial=show)
    path = remember(header, tuning, gpu_layers)
    if as_json:
        print_json({"file": str(path), "best": asdict(tuning), "trials": [asdict(trial) for trial in trials]})
        return
    print(f"{'flash attention':17}{'threads':>8}{'repacking':>11}{'short edit':>12}")
    best = min(trials, key=lambda trial: trial.seconds)
    for trial in sorted(trials, key=lambda trial: trial.seconds):
        row = f"{_on(trial.flash):17}{trial.threads:>8}{_on(trial.repack):>11}{trial.seconds:>10.3f} s"
        print(row + ("  <- kept" if trial is best else ""))
    print(f"\n{'tokens in a batch':20}" + "".join(f"{size:>8}" for size, _ in tuning.costs))
    print(f"{'milliseconds':20}" + "".join(f"{1000 * seconds:>8.1f}" for _, seconds in tuning.costs))
    console.print(f"kept in {path}; runs with models of this shape use it")


def _on(value: bool) -> str:
    return "on" if value else "off"

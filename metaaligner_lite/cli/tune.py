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
    """Measure flash attention, threads, repacking, F16 and batch costs for MODEL (under a minute); remember the best.

    Run it while the machine has nothing else to do. Flags such as --threads still go first.
    """
    from dataclasses import asdict

    from ..gguf_file import read_header
    from ..llama.tune import Setting, Trial, measure, remember
    from .console import print_json, talk

    header = read_header(model)
    console = talk()

    def described(setting: Setting) -> str:
        return (
            f"flash attention {_on(setting.flash)}, repacking {_on(setting.repack)}, as F16 {_on(setting.unpack)}, "
            f"{setting.threads} threads for single tokens, {setting.batch_threads} for batches"
        )

    def show(trial: Trial) -> None:
        console.print(f"{described(trial.setting)}: {trial.seconds:.3f} s", style="dim")

    found = measure(model, gpu_layers=gpu_layers, on_trial=show)
    path = remember(header, found.tuning, gpu_layers)
    if as_json:
        print_json(
            {
                "file": str(path),
                "best": asdict(found.tuning),
                "trials": [asdict(trial.setting) | {"seconds": trial.seconds} for trial in found.trials],
                "not_tried": [asdict(setting) for setting in found.not_tried],
                "not_measured": found.not_measured,
            }
        )
        return
    print(f"{'flash attention':17}{'repacking':>9}{'F16':>5}{'threads':>9}{'for batches':>13}{'short edit':>12}")
    for trial in sorted(found.trials, key=lambda trial: trial.seconds):
        setting = trial.setting
        row = f"{_on(setting.flash):17}{_on(setting.repack):>9}{_on(setting.unpack):>5}"
        row += f"{setting.threads:>9}{setting.batch_threads:>13}"
        notes = ["without tuning"] * (trial is found.trials[0]) + ["kept"] * (trial is found.best)
        print(f"{row}{trial.seconds:>10.3f} s" + (f"  <- {', '.join(notes)}" if notes else ""))
    print(f"\n{'tokens in a batch':20}" + "".join(f"{size:>8}" for size, _ in found.tuning.costs))
    print(f"{'milliseconds':20}" + "".join(f"{1000 * seconds:>8.1f}" for _, seconds in found.tuning.costs))
    for setting in found.not_tried:
        print(f"not tried, time was up: {described(setting)}")
    if found.not_measured:
        sizes = ", ".join(map(str, found.not_measured))
        print(f"not measured, time was up: batches of {sizes} tokens; their costs follow the built-in curve")
    console.print(f"kept in {path}; runs with models of this shape use it")


def _on(value: bool) -> str:
    return "on" if value else "off"

"""The trainings: how fast this machine is, then the paper's three steps with and without some, all of as many steps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mal_train.recipe import STAGES, Recipe, load
from metaaligner_lite import manifest

from .settings import MERGED, QUANTIZED, VARIANTS, Settings
from .steps import Needed

SHARES = {"warmup": 0.05, "equal": 0.15, "contrastive": 0.80}  # of the optimizer steps
_RESERVE = 0.9  # a training is planned to take so much of its time
_PACE = 60  # optimizer steps of the first look, at most
_LAYOUT = "conversation/brief"  # of both kinds, so that they differ in nothing else


def recipe(settings: Settings, kind: str, seed: int, steps: Mapping[str, int], minutes: float = 0.0) -> Recipe:
    """The shipped recipe, with so many optimizer steps in each stage; a stage without any is left out.

    The shares of the data are whole, the steps decide: the recipe's own shares are for another budget.
    """
    changed: dict[str, Any] = {
        "kind": kind, "layout": _LAYOUT, "seed": seed, "training.minutes": minutes, "data.validation": 0.0
    }  # fmt: skip
    for stage in STAGES:
        changed |= {f"stages.{stage}.share": float(stage in steps), f"stages.{stage}.steps": steps.get(stage, 0)}
    return load(Path(settings.recipe), changed)


def decides(settings: Settings, kind: str, variant: str = "", seed: int = 0) -> dict[str, Any]:
    """What decides a training beside the machine's pace."""
    told = recipe(settings, kind, seed, dict.fromkeys(STAGES, 0)).to_dict()
    files = {"base": settings.base_hash, "rows": settings.rows_hash}
    return {"recipe": told, "minutes": settings.minutes, "left out": VARIANTS.get(variant, ()), **files}


def pace(settings: Settings, kind: str, folder: Path, needed: Needed) -> dict[str, float]:
    """Seconds of an optimizer step on this machine, from a minute of training that is thrown away."""
    looked = recipe(settings, kind, 0, {"contrastive": _PACE}, min(1.0, settings.minutes))
    metrics = _train(settings, folder / "aligner", looked)
    shutil.rmtree(folder / "aligner")
    steps = metrics["contrastive/steps"]
    return {
        "seconds_per_step": max(metrics["seconds"], 1e-3) / steps,
        "steps": steps,
        "tokens_per_second": metrics["tokens/s"],
    }


def planned(settings: Settings, seconds_per_step: float, variant: str) -> dict[str, int]:
    """The optimizer steps of each stage, so that all three together take the time of a training.

    A variant without a stage has the same steps of the others, not more: that is what an ablation compares.
    """
    total = _RESERVE * 60 * settings.minutes / seconds_per_step
    steps = {stage: max(1, round(share * total)) for stage, share in SHARES.items()}
    return {stage: count for stage, count in steps.items() if stage not in VARIANTS[variant]}


def training(
    settings: Settings, kind: str, variant: str, seed: int, paced: str, folder: Path, needed: Needed
) -> dict[str, Any]:
    """One aligner, as GGUF: an adapter, or merged in the types of MERGED. `paced` is the step that told the pace."""
    from mal_convert import convert

    steps = planned(settings, needed[paced]["seconds_per_step"], variant)
    out = folder / "aligner"
    metrics = _train(settings, out, recipe(settings, kind, seed, steps))
    made = manifest.read(out / "adapter")
    files = {}
    if kind == "merged":
        report = convert(out / "merged", folder, MERGED, force=True)
        files = {output.type: output.path.name for output in report.outputs}
        shutil.rmtree(out / "merged")
    else:
        adapter = folder / "adapter.gguf"
        convert(out / "adapter", adapter, [], base=str(settings.base), adapter_only=True, force=True)
        files = {"adapter": adapter.name}
    return {
        "files": files,
        "kind": kind,
        "objectives": sorted(made.objectives) if made else [],
        "steps": {stage: int(metrics.get(f"{stage}/steps", 0)) for stage in STAGES},
        "examples": int(sum(metrics.get(f"{stage}/edits", 0) for stage in STAGES)),
        "tokens": int(metrics["tokens"]),
        "seconds": metrics["seconds"],
        "tokens_per_second": metrics["tokens/s"],
        "peak_memory_gib": metrics["peak_memory_gib"],
        "loss": {stage: metrics[f"{stage}/loss"] for stage in STAGES if f"{stage}/loss" in metrics},
    }


def bases(settings: Settings, folder: Path, needed: Needed) -> dict[str, Any]:
    """The base's numbers in other types: what the same adapter runs on. Names of files by type."""
    from mal_convert import convert
    from mal_train import gguf_base

    numbers = gguf_base.unpack(settings.base, folder / "numbers")
    report = convert(numbers, folder, QUANTIZED, force=True)
    shutil.rmtree(numbers)
    return {output.type: output.path.name for output in report.outputs}


def _train(settings: Settings, out: Path, chosen: Recipe) -> Mapping[str, float]:
    """The metrics of a training that is there, is gone on with, or is made."""
    from mal_train.progress import Console
    from mal_train.run import train

    if not out.exists():
        resume = (out.with_name(f"{out.name}.part") / "run.json").exists()
        train(settings.base, settings.rows, out, chosen, resume=resume, force=not resume, progress=Console())
    made = manifest.read(out / "adapter")
    if made is None:
        raise ValueError(f"{out / 'adapter'} has no manifest")
    return made.metrics

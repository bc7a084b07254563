"""What a run tells afterwards: report.md with its curves as SVG, and a model card in each model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metaaligner_lite.manifest import Manifest

from .progress import clock
from .rows import Account
from .stage import Curve, StageResult

_COLOURS = ("#4477aa", "#ee6677", "#228833")
_WIDTH, _HEIGHT, _MARGIN = 720, 300, 56


def write_report(made: Manifest, results: Sequence[StageResult], accounts: Sequence[Account], folder: Path) -> None:
    """Write report.md, loss.svg and, if edits were held out, accuracy.svg into `folder`."""
    held_out = any(result.held_out_loss.values for result in results)
    loss = {result.name: result.loss for result in results}
    (folder / "loss.svg").write_text(curves_svg("training loss", loss, smooth=True), encoding="utf-8")
    lines = [f"# Training report: {made.base}, {made.kind}, {made.layout}", ""]
    lines += [f"{made.made_by}. Data SHA-256 `{made.data}`. The settings are in recipe.toml.", ""]
    lines += ["| step of the paper | optimizer steps | tokens | time | tokens/s | loss, last tenth |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {r.name} | {r.steps:,} | {r.tokens:,} | {clock(r.seconds)} | {r.tokens / max(r.seconds, 1e-9):,.0f} "
        f"| {r.last_loss:.3f} |"
        for r in results
    ]
    lines += ["", "![training loss](loss.svg)", ""]
    if held_out:
        lines += ["| held-out queries | loss, best | token accuracy there | at step |", "|---|---|---|---|"]
        lines += [
            f"| {r.name} | {r.held_out_loss.values[r.best]:.3f} | {r.held_out_accuracy.values[r.best]:.1%} "
            f"| {r.held_out_loss.steps[r.best]:,} |"
            for r in results
            if r.best is not None
        ]
        accuracy = {result.name: result.held_out_accuracy for result in results}
        (folder / "accuracy.svg").write_text(curves_svg("held-out token accuracy", accuracy), encoding="utf-8")
        lines += ["", "![held-out token accuracy](accuracy.svg)", ""]
    lines += ["## Data", ""]
    lines += [f"- {line}" for account in accounts for line in account.lines()]
    lines += ["", "## Objectives", ""]
    lines += [f"- {name}: {description}" for name, description in made.objectives.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_card(made: Manifest, folder: Path) -> None:
    """Write README.md, the model card, into a model folder."""
    files = "an activated LoRA adapter; it acts from the edit request on" if made.kind == "activated" else "an aligner"
    metrics = "\n".join(f"| {name} | {value:g} |" for name, value in made.metrics.items())
    objectives = "\n".join(f"- {name}: {description}" for name, description in made.objectives.items())
    card = f"""---
base_model: {made.base}
library_name: {"peft" if folder.name == "adapter" else "transformers"}
tags: [metaaligner, alignment, text-editing]
---

# Aligner on {made.base}

This is {files}: a model that edits the answer of any language model toward objectives named in the request.
It was trained with {made.made_by} by the method of MetaAligner (arXiv 2403.17141), with LoRA; metaaligner.json
holds the settings, and the prompt layout is `{made.layout}`.

## Objectives it was trained on

{objectives}

Others can be named in the request; how well they are followed was not measured here.

## Training

| | |
|---|---|
{metrics}

The losses and accuracies are those of the reference edits' tokens; they do not say how good an edit is. The licence
of the base and of the data apply to this model too.
"""
    (folder / "README.md").write_text(card, encoding="utf-8")


def curves_svg(title: str, curves: dict[str, Curve], *, smooth: bool = False) -> str:
    """The stages' curves one after another in one picture, with the raw values pale behind if `smooth`."""
    points: dict[str, list[tuple[float, float]]] = {}
    offset = 0
    for name, curve in curves.items():
        points[name] = [(offset + s, v) for s, v in zip(curve.steps, curve.values, strict=True)]
        offset += max(curve.steps, default=0)
    values = [value for line in points.values() for _, value in line]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05
    low, high = low - pad, high + pad

    def place(step: float, value: float) -> str:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * step / max(1, offset)
        y = _HEIGHT - _MARGIN + (2 * _MARGIN - _HEIGHT) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="14">{title}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 14}" text-anchor="middle">optimizer step</text>',
    ]
    for i in range(5):
        value = low + (high - low) * i / 4
        left, right = place(0, value), place(offset, value)
        x, y = left.split(",")
        parts.append(f'<polyline points="{left} {right}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{value:.3g}</text>')
    for x_step in (0, offset):
        x, y = place(x_step, low).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{x_step:,}</text>')
    for (name, line), colour in zip(points.items(), _COLOURS, strict=False):
        if not line:
            continue
        if smooth:
            raw = " ".join(place(*point) for point in line)
            parts.append(f'<polyline points="{raw}" stroke="{colour}" stroke-opacity="0.25" fill="none"/>')
        drawn = " ".join(place(*point) for point in (_smoothed(line) if smooth else line))
        parts.append(f'<polyline points="{drawn}" stroke="{colour}" stroke-width="2" fill="none"/>')
        x = place(line[0][0], high).split(",")[0]
        parts.append(f'<text x="{x}" y="{_MARGIN - 8}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _smoothed(line: list[tuple[float, float]], weight: float = 0.9) -> list[tuple[float, float]]:
    """A running mean that forgets, corrected for its start."""
    total, norm, smoothed = 0.0, 0.0, []
    for step, value in line:
        total, norm = weight * total + value, weight * norm + 1
        smoothed.append((step, total / norm))
    return smoothed

"""What a run tells afterwards: report.md with its curves as SVG, and a model card in each model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from metaaligner_lite.manifest import Manifest
from metaaligner_lite.records import Account

from .progress import clock
from .stage import Curve, StageResult

_COLOURS = ("#4477aa", "#ee6677", "#228833")
_WIDTH, _HEIGHT, _MARGIN = 720, 300, 56


def write_report(made: Manifest, results: Sequence[StageResult], told: Sequence[Account | str], folder: Path) -> None:
    """Write report.md, loss.svg and accuracy.svg into `folder`; `told` is what became of the data."""
    pictures = {
        "loss": ([r.loss for r in results], [r.held_out_loss for r in results]),
        "token accuracy": ([r.accuracy for r in results], [r.held_out_accuracy for r in results]),
    }
    names = [r.name for r in results]
    for title, (training, held_out) in pictures.items():
        picture = curves_svg(title, names, training, held_out)
        (folder / f"{title.split()[-1]}.svg").write_text(picture, encoding="utf-8")
    lines = [f"# Training report: {made.base}, {made.kind}, {made.layout}", ""]
    lines += [f"{made.made_by}. Data SHA-256 `{made.data}`. The settings are in recipe.toml.", ""]
    lines += [
        "| paper's step | optimizer steps | tokens | time | tokens/s | loss, first and last tenth | token accuracy |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r.name} | {r.steps:,} | {r.tokens:,} | {clock(r.seconds)} | {r.speed:,.0f} "
        f"| {r.loss.first_tenth:.3f}, {r.loss.last_tenth:.3f} | {r.accuracy.last_tenth:.1%} |"
        for r in results
    ]
    lines += ["", "![loss](loss.svg)", "", "![token accuracy](accuracy.svg)", ""]
    lines += ["Pale: each step. Line: their running mean. Dots: held-out queries.", ""]
    lines += _held_out(results)
    lines += ["## Data", ""]
    lines += [f"- {line}" for item in told for line in ([item] if isinstance(item, str) else item.lines())]
    lines += ["", "## Objectives", ""]
    lines += [f"- {name}: {description}" for name, description in made.objectives.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _held_out(results: Sequence[StageResult]) -> list[str]:
    rows = [
        f"| {r.name} | {r.held_out_loss.values[r.best]:.3f} | {r.held_out_accuracy.values[r.best]:.1%} "
        f"| {r.held_out_loss.steps[r.best]:,} |"
        for r in results
        if r.best is not None
    ]
    if not rows:
        return [
            "No query was held out (data.validation in the recipe, or too few queries for its share): nothing above "
            "tells of texts not trained on.",
            "",
        ]
    return ["| held-out queries | loss, best | token accuracy there | at step |", "|---|---|---|---|", *rows, ""]


# What a GGUF file's name says behind the model's: converted, the aligner gets a type of its own.
_QUANTIZED = re.compile(r"([.-](I?Q\d\w*|B?F\d\d))?\.gguf\Z", re.IGNORECASE)


def write_card(made: Manifest, folder: Path) -> None:
    """Write README.md, the model card, into a model folder."""
    named = _QUANTIZED.sub("", made.base)
    files = "an activated LoRA adapter; it acts from the edit request on" if made.kind == "activated" else "an aligner"
    metrics = "\n".join(f"| {name} | {value:g} |" for name, value in made.metrics.items())
    objectives = "\n".join(f"- {name}: {description}" for name, description in made.objectives.items())
    card = f"""---
model_name: {json.dumps(f"Aligner on {named}")}
base_model: {json.dumps(made.base)}
library_name: {"peft" if folder.name == "adapter" else "transformers"}
tags: [metaaligner, alignment, text-editing]
---

# Aligner on {named}

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


def curves_svg(title: str, names: Sequence[str], training: Sequence[Curve], held_out: Sequence[Curve]) -> str:
    """The stages' curves one after another in one picture: each step pale, their running mean, held-out dots."""
    ends = list(
        accumulate(max((*one.steps, *other.steps), default=0) for one, other in zip(training, held_out, strict=True))
    )
    values = [value for curve in (*training, *held_out) for value in curve.values]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05
    low, high = max(0.0, low - pad), high + pad  # neither losses nor shares are negative

    def place(step: float, value: float) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * step / max(1, ends[-1])
        return x, _HEIGHT - _MARGIN + (2 * _MARGIN - _HEIGHT) * (value - low) / (high - low)

    def line(points: Iterable[tuple[float, float]], style: str) -> str:
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        return f'<polyline points="{drawn}" fill="none" {style}/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="14">{title}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 14}" text-anchor="middle">optimizer step</text>',
    ]
    for i in range(5):
        value = low + (high - low) * i / 4
        x, y = place(0, value)
        parts.append(line([(0, value), (ends[-1], value)], 'stroke="#ddd"'))
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for step in (0, ends[-1]):
        x, y = place(step, low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{step:,}</text>')
    for i, (name, curve, checks) in enumerate(zip(names, training, held_out, strict=True)):
        colour, begin = _COLOURS[i % len(_COLOURS)], ends[i - 1] if i else 0
        parts.append(f'<text x="{_MARGIN + 110 * i}" y="{_MARGIN - 12}" fill="{colour}">{name}</text>')
        points = [(begin + step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
        parts.append(line(points, f'stroke="{colour}" stroke-opacity="0.25"'))
        parts.append(line(_smoothed(points), f'stroke="{colour}" stroke-width="2"'))
        for step, value in zip(checks.steps, checks.values, strict=True):
            x, y = place(begin + step, value)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _smoothed(points: Sequence[tuple[float, float]], weight: float = 0.9) -> list[tuple[float, float]]:
    """A running mean that forgets, corrected for its start."""
    total, norm, smoothed = 0.0, 0.0, []
    for step, value in points:
        total, norm = weight * total + value, weight * norm + 1
        smoothed.append((step, total / norm))
    return smoothed

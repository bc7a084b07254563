"""What a conversion would do: names, shapes, sizes and places, with nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metaaligner_lite.errors import UsageError, require_extra

from . import adapter_file, outputs, requantize
from .hub import default_out, locate
from .job import prepare
from .plan import Step


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor of the output: its shape in PyTorch order, and what it is made of."""

    name: str
    shape: tuple[int, ...]
    made_of: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be written where; `bytes_needed` is the room it takes while it runs, at most."""

    architecture: str
    parameters: int
    pre_tokenizer: str
    outputs: dict[str, Path]
    bytes_needed: int
    tensors: tuple[Planned, ...]
    notes: tuple[str, ...] = ()


def preview(
    source: Path | str,
    out: Path | None,
    types: Sequence[str],
    *,
    base: str | None = None,
    adapter_only: bool = False,
    pre: str | None = None,
    imatrix: Path | None = None,
) -> Preview:
    """The plan of `convert` with the same arguments. Raises what it would raise before it reads tensor data."""
    require_extra("convert", "tokenizers", "sentencepiece")
    folder, out = locate(source), default_out(source, out)
    if folder.suffix == ".gguf" and folder.is_file():
        requantize.refuse_adapter_options(folder, base, adapter_only)
        header, targets = requantize.plan(folder, out, types, imatrix is not None)
        tensors = tuple(Planned(t.name, t.shape[::-1], t.type_name) for t in header.tensors)
        count, room = sum(t.elements for t in header.tensors), requantize.room_for(header, targets)
        names = (header.text("general.architecture"), count, header.text("tokenizer.ggml.pre"))
        return Preview(*names, targets, room + outputs.MARGIN, tensors)
    if adapter_only:
        if imatrix is not None:
            raise UsageError("an importance matrix is for whole models; an adapter alone stays as exact as it is")
        made = adapter_file.plan(folder, out, types, base)
        return Preview(
            made.architecture,
            made.parameters,
            "",
            made.outputs,
            made.bytes_needed + outputs.MARGIN,
            _planned(made.steps),
            made.notes,
        )
    job = prepare(folder, out, types, base=base, pre=pre, matrix=imatrix is not None)
    architecture, pre_tokenizer = job.model.architecture.gguf, job.vocabulary.pre[0]
    return Preview(
        architecture,
        job.parameters,
        pre_tokenizer,
        dict(job.outputs),
        job.bytes_needed + outputs.MARGIN,
        _planned(job.steps),
        job.notes,
    )


def _planned(steps: Sequence[Step]) -> tuple[Planned, ...]:
    return tuple(Planned(step.name, step.shape, made_of(step)) for step in steps)


def made_of(step: Step) -> str:
    """Where a tensor comes from and what is done to it, in words."""
    if step.parts:
        return f"{len(step.parts)} experts, each {made_of(step.parts[0])}"
    if step.source is None:
        return "computed from config.json"
    words = [f"{step.source.dtype} {step.source.name}"]
    if step.low_rank is not None:
        words.append(f"{step.low_rank.scale:g} x rank {step.low_rank.rank} merged in")
    if step.transposed:
        words.append("transposed")
    if step.heads:
        words.append(f"rotary rows of {step.heads} heads regrouped")
    if step.times != 1.0:
        words.append(f"times {step.times:g}")
    if step.plus != 0.0:
        words.append(f"plus {step.plus:g}")
    return ", ".join(words)

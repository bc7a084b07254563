"""From a PEFT adapter to a GGUF adapter: used beside its base, switched on and off at run time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf

from metaaligner_lite import manifest
from metaaligner_lite.errors import ModelError, UsageError
from metaaligner_lite.gguf_config import hf_config
from metaaligner_lite.gguf_file import base_fingerprint, read_header

from . import metadata, outputs, verify, writer
from .adapter import Adapter, LowRank, both_note, has_adapter, read_adapter
from .architectures import Architecture, dimensions, expected_tensors, find
from .checkpoint import has_pickles, has_weights, read_json
from .config import Config
from .hub import locate
from .job import conversion_notes, output_paths, wanted_types
from .model import EMBEDDING, HEAD
from .plan import Step, gguf_name, rotary_heads
from .quantize import PLAIN
from .report import ConversionReport, FileCheck, Output, Progress

_TYPES = (*PLAIN, "Q8_0")  # the last in half the room; rows of a rank that is no multiple of 32 stay F16


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter file before it is written: its tensors, metadata and places."""

    architecture: str
    steps: tuple[Step, ...]
    fields: Mapping[str, Any]
    outputs: dict[str, Path]
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(step.elements for step in self.steps)

    @property
    def bytes_needed(self) -> int:
        """Bytes of all outputs together."""
        return sum(step.bytes_in(gguf.GGMLQuantizationType[name]) for name in self.outputs for step in self.steps)


def plan(folder: Path, out: Path | None, types: Sequence[str], base: str | None) -> AdapterPlan:
    """Read an adapter and its base's config.json; no tensor data is read.

    Raises ModelError for what a GGUF adapter cannot hold: DoRA, modules saved whole, tensors the base does not have.
    """
    if not has_adapter(folder):
        raise UsageError(f"{folder} holds no adapter_config.json; --adapter-only expects a PEFT adapter folder")
    adapter = read_adapter(folder)
    names = wanted_types(types or [adapter.dtype])
    if other := [name for name in names if name not in _TYPES]:
        raise UsageError(f"an adapter is written as {', '.join(_TYPES)}, not as {other[0]}: it is small as it is")
    found = locate(base or adapter.base, f"the base of {folder}")
    raw, fingerprint = _base(found)
    architecture, config = find(raw)
    steps = plan_adapter(architecture, config, adapter)
    made = manifest.read(folder)
    if made and made.fingerprint and fingerprint and made.fingerprint != fingerprint:
        raise ModelError(
            f"{found} is not the base that {folder} was trained on ({made.base}); name that one with --base"
        )
    if made and fingerprint:
        made = replace(made, fingerprint=fingerprint)
    fields, about = _describe(architecture, adapter, steps, made)
    notes = (both_note(folder, "adapter"),) if has_weights(folder) or has_pickles(folder) else ()
    return AdapterPlan(architecture.gguf, tuple(steps), fields, output_paths(folder, out, names, about, "LoRA"), notes)


def _base(path: Path) -> tuple[Mapping[str, Any], str]:
    """The config.json of a base, a model folder or a GGUF file, and the fingerprint of the latter."""
    if path.is_dir():
        return read_json(path / "config.json"), ""
    header = read_header(path)
    header.check_tensors()
    return hf_config(header), base_fingerprint(header)


def convert_adapter(
    folder: Path, out: Path | None, types: Sequence[str], *, base: str | None, force: bool, progress: Progress
) -> ConversionReport:
    """Write a LoRA or activated-LoRA adapter as GGUF, and read it back. Raises what `plan` raises."""
    started = time.monotonic()
    made = plan(folder, out, types, base)
    with outputs.staged(made.outputs, made.bytes_needed, force, progress) as files:
        done = _Counter(progress, made.bytes_needed)
        for name, path in files.items():
            kind = gguf.GGMLQuantizationType[name]
            writer.write(path, made.fields, made.steps, kind, partial(done.add, name))
        errors = {name: verify.tensor_errors(name, path, made.steps) for name, path in files.items()}
        written = [Output.measured(n, p, made.outputs[n], made.parameters) for n, p in files.items()]
    return ConversionReport(
        source=str(folder),
        architecture=made.architecture,
        parameters=made.parameters,
        pre_tokenizer="",
        outputs=tuple(written),
        checks=tuple(FileCheck(name, None, None, found, ()) for name, found in errors.items()),
        seconds=time.monotonic() - started,
        notes=made.notes,
    )


class _Counter:
    """Adds up bytes for a progress report."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, name: str, count: int) -> None:
        self.done += count
        self.progress(f"writing {name}", self.done, self.total)


def plan_adapter(architecture: Architecture, config: Config, adapter: Adapter) -> list[Step]:
    """The steps of an adapter file. Raises ModelError if a tensor does not fit the base or has no place in GGUF."""
    if adapter.replaced:
        raise ModelError(
            f"the adapter holds whole modules ({next(iter(adapter.replaced))!r}), which a GGUF adapter cannot hold; "
            "merge it into its base instead: leave --adapter-only out"
        )
    shapes = dict(expected_tensors(architecture, config))
    shapes |= dict.fromkeys((EMBEDDING, HEAD), (config.integer("vocab_size"), dimensions(config)["hidden"]))
    if config.flag("tie_word_embeddings"):
        del shapes[HEAD]  # llama.cpp would look for a tensor that a tied model does not have
    steps = []
    for name, pair in adapter.low_rank.items():
        if pair.magnitude is not None:
            raise ModelError(
                "the adapter is a DoRA, which GGUF adapters cannot express; merge it: leave --adapter-only out"
            )
        if ".mlp.experts." in name:
            raise ModelError(
                f"the adapter changes one expert ({name!r}), which GGUF adapters cannot express; merge it: leave "
                "--adapter-only out"
            )
        if shapes.get(name) != pair.shape:
            raise ModelError(
                f"the adapter changes {name!r} of shape {pair.shape}, the base has "
                f"{shapes.get(name, 'no such tensor')}; is --base the model it was trained on?"
            )
        steps += _pair_steps(gguf_name(architecture, config, name), architecture, config, name, pair, adapter.alpha)
    return steps


def _pair_steps(
    target: str, architecture: Architecture, config: Config, name: str, pair: LowRank, alpha: float
) -> list[Step]:
    """A and B. llama.cpp scales by one alpha / rank; what a module's own scale differs by goes into B."""
    factor = pair.scale * pair.rank / alpha if alpha else pair.scale
    a, b = pair.a, pair.b
    return [
        Step(f"{target}.lora_a", a.shape[::-1] if pair.embedding else a.shape, a, transposed=pair.embedding),
        Step(f"{target}.lora_b", b.shape, b, heads=rotary_heads(architecture, config, name), times=factor),
    ]


def _describe(
    architecture: Architecture, adapter: Adapter, steps: Sequence[Step], made: manifest.Manifest | None
) -> tuple[dict[str, Any], gguf.Metadata]:
    parameters = sum(math.prod((b.shape[0], a.shape[-1])) for a, b in zip(steps[::2], steps[1::2], strict=True))
    about = metadata.identity(adapter.folder, -parameters, adapter.base)
    fields = gguf.GGUFWriter(None, architecture.gguf)
    fields.add_type(gguf.GGUFType.ADAPTER)
    fields.add_string(gguf.Keys.Adapter.TYPE, "lora")
    about.set_gguf_meta_model(fields)
    fields.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    if adapter.invocation:
        kind = (gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
        fields.add_key_value("adapter.alora.invocation_tokens", list(adapter.invocation), *kind)
    fields.add_quantization_version(gguf.GGML_QUANT_VERSION)
    found = dict(fields.kv_data[0])
    if made is not None:
        found = metadata.with_manifest(found, replace(made, conversion=conversion_notes(adapter.dtype, True)))
    return found, about

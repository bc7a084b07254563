"""Everything known before a byte is written: what goes in, what comes out, where, and how much room it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf

import metaaligner_lite
from metaaligner_lite import manifest
from metaaligner_lite.errors import UsageError

from . import metadata, tokens, writer
from .architectures import Architecture
from .model import Model, open_model
from .plan import Step, plan_tensors
from .quantize import PLAIN, parse_type, room
from .reference import Reference
from .vocab import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class Job:
    """A conversion that has passed every check which needs no tensor data."""

    model: Model
    vocabulary: Vocabulary
    steps: tuple[Step, ...]
    fields: Mapping[str, Any]  # GGUF metadata without the file type
    outputs: Mapping[str, Path]  # type -> file
    matrix: bool = False  # whether an importance matrix goes into the quantized ones

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken where the source holds more than one thing."""
        return (*self.model.notes, *self.vocabulary.notes)

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return count_parameters(self.steps)

    def reference(self, rounded_to: str = "F32") -> Reference:
        """The model computed from its source, for comparing."""
        return Reference(self.model, rounded_to)

    @property
    def base_type(self) -> str:
        """The type quantizing starts from: the checkpoint's own, so that numbers are rounded once."""
        return self.model.dtype

    @property
    def needs_base(self) -> bool:
        """Whether a file of the base type is written: for quantizing, or because it is wanted."""
        return self.base_type in self.outputs or any(name not in PLAIN for name in self.outputs)

    def bytes_as(self, plain: str) -> int:
        """Tensor bytes of an unquantized file."""
        return sum(step.bytes_in(gguf.GGMLQuantizationType[plain]) for step in self.steps)

    @property
    def bytes_needed(self) -> int:
        """Disk space while it runs, at most: all outputs, and the file that quantizing starts from."""
        files = {*self.outputs, *([self.base_type] if self.needs_base else [])}
        sizes = {name: sum(room(name, step.shape) for step in self.steps) for name in files}
        # Beside a matrix each type is made a second time without it, one after the other.
        again = max((size for name, size in sizes.items() if name not in PLAIN), default=0) if self.matrix else 0
        return sum(sizes.values()) + again


def prepare(
    source: Path,
    out: Path | None,
    types: Sequence[str],
    *,
    base: str | None = None,
    pre: str | None = None,
    verified: bool = True,
    matrix: bool = False,
) -> Job:
    """Read names, shapes and the tokenizer, and settle everything; no tensor data is read, no output written.

    Raises children of MalError for all that can be known to fail by now.
    """
    names = wanted_types(types, matrix)
    model = open_model(source, base)
    vocabulary = read_vocabulary(model.tokenizer, model.config.raw)
    if pre is not None:
        vocabulary = replace(vocabulary, pre=(pre,))
    steps = tuple(plan_tensors(model, len(vocabulary.tokens)))
    vocabulary = vocabulary.padded(model.config.integer("vocab_size"))
    vocabulary = settle_pre_tokenizer(vocabulary, model.architecture, model.tokenizer)
    about = metadata.identity(model.folder, count_parameters(steps), model.base, count_experts(steps))
    fields = metadata.describe(about, model.architecture, model.config, vocabulary)
    made = manifest.read(model.folder) or manifest.Manifest(role="policy")  # any model may be asked for answers
    notes = conversion_notes(model.dtype, verified) | {"pre_tokenizer": vocabulary.pre[0]}
    fields = metadata.with_manifest(fields, replace(made, conversion=notes))
    return Job(model, vocabulary, steps, fields, output_paths(model.folder, out, names, about), matrix)


def wanted_types(types: Sequence[str], matrix: bool = False) -> list[str]:
    """The names of output types, each once. Raises UsageError for an unknown one, or none at all."""
    names = list(dict.fromkeys(parse_type(name, matrix) for name in types))
    if matrix and names and all(name in PLAIN for name in names):
        raise UsageError(f"an importance matrix does nothing for {', '.join(names)}; name a quantized type, too")
    if not names:
        raise UsageError("no output type named; expected at least one, such as --q4_k_m")
    return names


def conversion_notes(source_type: str, verified: bool) -> dict[str, Any]:
    """What the manifest says of the conversion; a file that failed verification does not exist."""
    tool = f"metaaligner-lite {metaaligner_lite.__version__}"
    return {"tool": tool, "source_type": source_type, "verified": verified}


def settle_pre_tokenizer(vocabulary: Vocabulary, architecture: Architecture, folder: Path) -> Vocabulary:
    """The vocabulary with the pre-tokenizer under which llama.cpp gives the source's token ids.

    Raises ModelError if no candidate does.
    """
    encode = tokens.reference_encoder(folder)
    with tempfile.TemporaryDirectory(prefix="mal-convert-") as scratch:
        path = Path(scratch) / "vocabulary.gguf"
        write_vocabulary(path, vocabulary, architecture)
        return replace(vocabulary, pre=(tokens.choose_pre(path, vocabulary.pre, encode),))


def write_vocabulary(path: Path, vocabulary: Vocabulary, architecture: Architecture) -> None:
    """Write a GGUF file with a vocabulary and no tensors, which llama.cpp opens for tokenizing alone."""
    fields = gguf.GGUFWriter(None, architecture.gguf)
    vocabulary.add_to(fields)
    writer.write(path, fields.kv_data[0], (), gguf.GGMLQuantizationType.F32, lambda _: None)


def count_parameters(steps: Sequence[Step]) -> int:
    """How many numbers come from the source."""
    return sum(step.elements for step in steps if step.source is not None or step.parts)


def count_experts(steps: Sequence[Step]) -> tuple[int, int]:
    """How many numbers one expert of each layer has, all layers together, and how many experts there are."""
    stacks = [step for step in steps if step.parts]
    return sum(step.parts[0].elements for step in stacks), len(stacks[0].parts) if stacks else 0


def output_paths(
    source: Path, out: Path | None, names: Sequence[str], about: gguf.Metadata, kind: str | None = None
) -> dict[str, Path]:
    """Where each type goes: `out` itself if it is a .gguf file name, else named by GGUF's convention in a folder."""
    if out is not None and out.suffix == ".gguf" and not out.is_dir():
        if len(names) > 1:
            raise UsageError(f"--out names one file, {len(names)} types are asked for; name a folder instead")
        return {names[0]: out}
    folder = source if out is None else out
    stem = (about.name, about.basename, about.finetune, about.version, about.size_label)
    return {name: folder / f"{gguf.naming_convention(*stem, name, kind)}.gguf" for name in names}

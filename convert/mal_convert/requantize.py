"""From one unquantized GGUF file to others; metadata, tokenizer and manifest travel along."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import gguf
import numpy as np

from metaaligner_lite import manifest
from metaaligner_lite.errors import FileProblem, ModelError, UsageError
from metaaligner_lite.gguf_file import GgufHeader, read_header

from . import outputs, verify
from .imatrix import Matrix, existing, settle
from .job import output_paths, wanted_types
from .libllama import opened
from .probe import SENTENCE
from .quantize import PLAIN, quantize, room
from .report import ConversionReport, FileCheck, Output, Progress


def plan(
    source: Path, out: Path | None, types: Sequence[str], matrix: bool = False
) -> tuple[GgufHeader, dict[str, Path]]:
    """The source's header, and where each type goes. Raises ModelError if it is quantized already."""
    header = read_header(source)
    header.check_tensors()
    _refuse_unusable(header)
    if quantized := sorted({tensor.type_name for tensor in header.tensors} - set(PLAIN)):
        raise ModelError(
            f"{source} is quantized already ({', '.join(quantized)}); quantizing twice adds the errors of both: "
            "start from an F16, BF16 or F32 file"
        )
    targets = output_paths(source.parent, out, wanted_types(types, matrix), _identity(header))
    if source.resolve() in {path.resolve() for path in targets.values()}:
        raise UsageError(f"the output would replace its own source {source}; name another place with --out")
    return header, targets


def requantize(
    source: Path,
    out: Path | None,
    types: Sequence[str],
    *,
    imatrix: Path | None = None,
    force: bool,
    verify: bool,
    progress: Progress,
) -> ConversionReport:
    """Quantize a GGUF file. Raises ModelError if it is quantized already, or a file does not pass its checks."""
    started = time.monotonic()
    header, targets = plan(source, out, types, imatrix is not None)
    given = existing(imatrix)
    parameters = sum(tensor.elements for tensor in header.tensors)
    again = max(room_for(header, [name]) for name in targets) if imatrix is not None else 0
    with outputs.staged(targets, room_for(header, targets) + again, force, progress) as files:
        matrix = settle(given, imatrix, source, files, targets, progress)
        remarks = {n: quantize(source, p, n, partial(progress, f"quantizing {n}"), matrix) for n, p in files.items()}
        checks = _check(header, files, progress, matrix) if verify else _say_unverified(files)
        written = [Output.measured(n, p, targets[n], parameters, remarks[n]) for n, p in files.items()]
    return ConversionReport(
        source=str(source),
        architecture=header.text("general.architecture"),
        parameters=parameters,
        pre_tokenizer=header.text("tokenizer.ggml.pre"),
        outputs=tuple(written),
        checks=tuple(checks),
        seconds=time.monotonic() - started,
        notes=matrix.notes if matrix else (),
    )


def refuse_adapter_options(source: Path, base: str | None, adapter_only: bool) -> None:
    """Raise UsageError for options that a GGUF file has no use for."""
    if base is not None or adapter_only:
        raise UsageError(
            f"{source} is a GGUF file, to be quantized; --base and --adapter-only belong to adapter folders"
        )


def room_for(header: GgufHeader, types: Iterable[str]) -> int:
    """The most bytes that files of these types take together."""
    return sum(room(name, tensor.shape[::-1]) for name in types for tensor in header.tensors)


def _say_unverified(files: Mapping[str, Path]) -> list[FileCheck]:
    """Let the manifest that came with the source say that these files were not verified. Returns no checks."""
    for path in files.values():
        header = read_header(path)
        said = header.text(manifest.GGUF_KEY)
        # Of the same length, so that nothing in the file moves; the manifest's JSON is written with ": ".
        corrected = said.replace('"verified": true', '"verified":false').encode()
        if corrected != said.encode():
            with path.open("r+b") as file:
                at = file.read(header.data_offset).index(said.encode())
                file.seek(at)
                file.write(corrected)
    return []


def _refuse_unusable(header: GgufHeader) -> None:
    """Raise for files that are no model, and for numbers over which llama.cpp ends the process."""
    if (kind := header.text("general.type", "model")) not in ("model", ""):
        raise ModelError(f"{header.path} holds a {kind!r}; expected a whole model")
    if not header.tensors:
        raise ModelError(f"{header.path} holds a vocabulary and no weights; expected a whole model")
    for key, value in header.metadata.items():
        if isinstance(value, float) and (not math.isfinite(value) or (value < 0 and key.endswith("epsilon"))):
            raise FileProblem(f"{header.path} says {key} = {value}; it is damaged, download or convert it again")


def _identity(header: GgufHeader) -> gguf.Metadata:
    """The names a file name is made of."""
    about = gguf.Metadata()
    for key in ("name", "basename", "finetune", "version", "size_label"):
        setattr(about, key, header.text(f"general.{key}") or None)
    about.name = about.name or header.path.stem
    return about


def _check(
    header: GgufHeader, files: outputs.Staged, progress: Progress, matrix: Matrix | None = None
) -> list[FileCheck]:
    """Compare every output with its source: rows of every tensor, logits, token ids, a short greedy run."""
    with opened(header.path) as model:
        ids = model.tokenize(SENTENCE, add_special=True)
        expected = model.logits(ids)
    found = []
    for done, (name, path) in enumerate(files.items()):
        progress("verifying", done, len(files))
        errors = _tensor_errors(header, name, path)
        with opened(path) as model:
            if model.tokenize(SENTENCE, add_special=True) != ids:
                raise ModelError(f"the {name} file tokenizes differently from its source")
            logits, greedy = model.run(ids, verify.GREEDY)
        error, agreement = verify.logits_error(
            name,
            logits,
            expected,
            rounded={tensor.type_name for tensor in header.tensors},
            routed=bool(header.metadata.get(f"{header.text('general.architecture')}.expert_count")),
        )
        without = None if matrix is None else verify.without_matrix(name, header.path, files, ids, expected)
        found.append(FileCheck(name, error, agreement, errors, tuple(greedy), without))
    progress("verifying", len(files), len(files))
    return found


def _tensor_errors(header: GgufHeader, name: str, path: Path) -> dict[str, float]:
    written = read_header(path)
    written.check_tensors()
    by_name = {tensor.name: tensor for tensor in written.tensors}
    errors: dict[str, list[float]] = {}
    for tensor in header.tensors:
        rows = verify.sample_rows(tensor.name, tensor.elements // tensor.shape[0])
        expected = verify.read_rows(header, tensor, rows)
        if tensor.name not in by_name or by_name[tensor.name].shape != tensor.shape:
            raise ModelError(f"the {name} file lacks tensor {tensor.name!r}, or has it in another shape")
        found = verify.read_rows(written, by_name[tensor.name], rows)
        if found is not None and expected is not None:
            kind = by_name[tensor.name].type_name
            errors.setdefault(kind, []).append(verify.row_error(tensor.name, name, kind, found, expected))
    return {kind: float(np.mean(values)) for kind, values in sorted(errors.items())}

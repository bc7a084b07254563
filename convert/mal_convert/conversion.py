"""convert(): the whole story. Plan, then bytes, then quantize, then verify; files get their names last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from metaaligner_lite.errors import UsageError, require_extra

from . import adapter_file, metadata, outputs, requantize, writer
from . import verify as verification
from .hub import default_out, locate
from .imatrix import Matrix, existing, settle
from .job import Job, prepare
from .quantize import PLAIN, quantize
from .report import ConversionReport, Output, Progress, silent


def convert(
    source: Path | str,
    out: Path | None,
    types: Sequence[str],
    *,
    base: str | None = None,
    adapter_only: bool = False,
    pre: str | None = None,
    imatrix: Path | None = None,
    force: bool = False,
    verify: bool = True,
    progress: Progress = silent,
) -> ConversionReport:
    """Convert a model to one GGUF file per type, such as F16 or Q4_K_M.

    `source` is a Hugging Face model folder or Hub id, a PEFT adapter folder (merged into `base`, by default the one
    it names; with `adapter_only` converted alone), or an unquantized .gguf file. `out` is a folder, or a file name
    ending in .gguf if there is one type; by default the files go beside the source, those of a Hub id into the
    current folder. `pre` names the pre-tokenizer instead of finding it; token ids are compared all the same.
    `imatrix` is an importance matrix of llama.cpp's, or a text from which one is computed and kept beside the outputs.
    Raises children of MalError. Whatever happens, a file that exists under its name is complete.
    """
    require_extra("convert", "tokenizers", "sentencepiece")
    started = time.monotonic()
    folder, out = locate(source), default_out(source, out)
    if folder.suffix == ".gguf" and folder.is_file():
        requantize.refuse_adapter_options(folder, base, adapter_only)
        return requantize.requantize(folder, out, types, imatrix=imatrix, force=force, verify=verify, progress=progress)
    if adapter_only:
        if imatrix is not None:
            raise UsageError("an importance matrix is for whole models; an adapter alone stays as exact as it is")
        return adapter_file.convert_adapter(folder, out, types, base=base, force=force, progress=progress)
    job = prepare(folder, out, types, base=base, pre=pre, verified=verify, matrix=imatrix is not None)
    given = existing(imatrix)
    with outputs.staged(job.outputs, job.bytes_needed, force, progress) as files:
        start = files.get(job.base_type) or files.extra("intermediate.gguf")
        write_plain(job, start, files, progress)
        matrix = settle(given, imatrix, start, files, job.outputs, progress)
        remarks = quantize_all(job, start, files, progress, matrix)
        checks = verification.check(job, start, files, progress, matrix) if verify else []
        written = [Output.measured(n, p, job.outputs[n], job.parameters, remarks.get(n, ())) for n, p in files.items()]
    return ConversionReport(
        source=str(source),
        architecture=job.model.architecture.gguf,
        parameters=job.parameters,
        pre_tokenizer=job.vocabulary.pre[0],
        outputs=tuple(written),
        checks=tuple(checks),
        seconds=time.monotonic() - started,
        notes=(*job.notes, *(matrix.notes if matrix else ())),
    )


def write_plain(job: Job, start: Path, files: Mapping[str, Path], progress: Progress) -> None:
    """Write the unquantized files: those asked for, and the one that quantizing starts from."""
    wanted = {name: path for name, path in files.items() if name in PLAIN}
    if job.needs_base:
        wanted[job.base_type] = start
    done, total = 0, sum(job.bytes_as(name) for name in wanted)

    def advance(what: str, count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    for name, path in wanted.items():
        file_type, kind = writer.types_for(name)
        fields = metadata.with_file_type(job.fields, file_type)
        writer.write(path, fields, job.steps, kind, partial(advance, f"writing {name}"))


def quantize_all(
    job: Job, start: Path, files: Mapping[str, Path], progress: Progress, matrix: Matrix | None = None
) -> dict[str, tuple[str, ...]]:
    """Quantize the start into every other file. Returns llama.cpp's remarks by type."""
    return {
        name: tuple(quantize(start, path, name, partial(progress, f"quantizing {name}"), matrix))
        for name, path in files.items()
        if name not in PLAIN
    }

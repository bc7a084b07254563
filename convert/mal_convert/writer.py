"""Write a GGUF file from a plan: metadata first, then each tensor as it streams by, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from . import tensors
from .plan import Step

Advance = Callable[[int], None]  # told the bytes just written
Fields = Mapping[str, Any]  # metadata key -> gguf.GGUFValue


def write(path: Path, fields: Fields, steps: Sequence[Step], kind: gguf.GGMLQuantizationType, advance: Advance) -> None:
    """Write all of it to `path`. Raises ModelError for numbers that do not fit, OSError from the disk."""
    writer = gguf.GGUFWriter(None, "")
    writer.kv_data[0] = dict(fields)
    for step in steps:
        writer.add_tensor_info(
            step.name, step.shape, np.dtype(np.float32), step.bytes_in(kind), raw_dtype=step.type_in(kind)
        )
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if steps:
            _write_data(writer, steps, kind, advance)
    finally:
        writer.close()


def _write_data(
    writer: gguf.GGUFWriter, steps: Sequence[Step], kind: gguf.GGMLQuantizationType, advance: Advance
) -> None:
    # GGUFWriter's own loop wants whole tensors, and reports a full disk without saying so.
    (file,) = writer.fout or [None]
    writer.write_padding(file, file.tell())
    for step in steps:
        for chunk in tensors.stream(step, step.type_in(kind)):
            file.write(chunk.data.cast("B"))
            advance(chunk.nbytes)
        writer.write_padding(file, step.bytes_in(kind))
    file.flush()


def types_for(file_type: str) -> tuple[gguf.LlamaFileType, gguf.GGMLQuantizationType]:
    """The GGUF file type and the tensor type of an unquantized output: F32, F16 or BF16."""
    whole = "ALL_" if file_type == "F32" else "MOSTLY_"
    return gguf.LlamaFileType[whole + file_type], gguf.GGMLQuantizationType[file_type]

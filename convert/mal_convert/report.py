"""What a conversion reports: while it runs, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is
SPACE = "disk space"  # told first: bytes the run takes at most while it runs, bytes that are free


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What was measured on one file. Errors are root mean squares, as shares of the source's own.

    `logits_error` is against the reference's logits; `agreement` the share of positions with its likeliest token;
    `tensor_errors` by the type tensors have in the file. An adapter alone computes no logits: None. `without_matrix`:
    the logits' error of the same type quantized without the importance matrix, where there is one and it can be.
    """

    type: str
    logits_error: float | None
    agreement: float | None
    tensor_errors: Mapping[str, float]
    greedy: tuple[int, ...]
    without_matrix: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One file that was written, and what llama.cpp remarked while quantizing it."""

    path: Path
    type: str
    bytes: int
    bits_per_weight: float
    remarks: tuple[str, ...] = ()

    @classmethod
    def measured(cls, kind: str, file: Path, path: Path, parameters: int, remarks: Sequence[str] = ()) -> Output:
        """The output at `path`, measured where it still lies, at `file`."""
        size = file.stat().st_size
        return cls(path, kind, size, 8 * size / parameters, tuple(remarks))


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion did: its outputs, what was measured on each, and how long it took.

    `checks` has one entry per output, and none if the conversion was told not to verify. `notes` say what was taken
    where the source holds more than one thing.
    """

    source: str
    architecture: str
    parameters: int
    pre_tokenizer: str
    outputs: tuple[Output, ...]
    checks: tuple[FileCheck, ...]
    seconds: float
    notes: tuple[str, ...] = ()

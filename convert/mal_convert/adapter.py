"""PEFT LoRA adapters: what they add to which tensor, read without trusting them and merged a few rows at a time.

Merging adds scale * B @ A to a weight, in float32 (Hu et al. 2021); DoRA then rescales each row (Liu et al. 2024).
Settings that change anything else are refused by name. Names and files as PEFT's save_pretrained writes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaaligner_lite.errors import FileProblem, ModelError

from .architectures import text_name
from .checkpoint import F32, SourceTensor, as_float32, read_json, read_tensors, require_float

Rows = slice | NDArray[np.int64]

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
# PEFT settings under which an adapter is more than scale * B @ A; true, non-empty or non-zero means in use.
_UNSUPPORTED = (
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "arrow_config",
    "use_bdlora",
    "velora_config",
    "monteclora_config",
)
# Initializations that also change the base; PEFT's path_initial_model_for_weight_conversion makes a plain adapter.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight: scale * left @ right, `left` with a row for each row of the weight.

    `magnitude` (DoRA): the length that each row of the sum is given.
    """

    a: SourceTensor
    b: SourceTensor
    scale: float
    embedding: bool = False  # stored transposed: the weight's rows are A's columns
    magnitude: SourceTensor | None = None

    def left(self, rows: Rows) -> F32:
        """Some rows of the left factor, shape (rows, rank); read when asked for, so that nothing piles up."""
        if self.embedding:
            return as_float32(self.a.stored()[:, rows], self.a.dtype).T
        return as_float32(self.b.stored()[rows], self.b.dtype)

    def right(self) -> F32:
        """The right factor, shape (rank, row length of the weight)."""
        return _numbers(self.b).T if self.embedding else _numbers(self.a)

    def added(self, rows: Rows) -> F32:
        """What some rows of the weight are given, shape (rows, row length)."""
        share: F32 = np.float32(self.scale) * (self.left(rows) @ self.right())
        return share

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight it fits."""
        outer = (self.b.shape[0], self.a.shape[1])
        return outer[::-1] if self.embedding else outer

    def merged(self, weight: F32, rows: Rows) -> F32:
        """Some rows of the weight with their share added."""
        result: F32 = weight + self.added(rows)
        return result if self.magnitude is None else result * self.stretch(result, rows)

    def stretch(self, rows_of_sum: F32, rows: Rows) -> F32:
        """DoRA's factor for each row, shape (rows, 1): its trained length over the length it has."""
        if self.magnitude is None:
            return np.ones((len(rows_of_sum), 1), np.float32)
        lengths: F32 = np.linalg.norm(rows_of_sum, axis=1, keepdims=True)
        return _numbers(self.magnitude).reshape(-1, 1)[rows] / lengths


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA adapter: `low_rank` by the weight it changes, `replaced` the modules it saved whole.

    `invocation`: the tokens that switch an activated LoRA on; empty for an ordinary one.
    """

    folder: Path
    base: str
    alpha: float
    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, SourceTensor]
    invocation: tuple[int, ...]
    keeps_ties: bool

    @property
    def dtype(self) -> str:
        """The type its matrices are stored in, F32 if they differ."""
        kinds = {tensor.dtype for pair in self.low_rank.values() for tensor in (pair.a, pair.b)}
        return kinds.pop() if len(kinds) == 1 and not kinds & {"F64"} else "F32"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's config and where its tensors lie.

    Raises FileProblem for damaged files, ModelError for settings that cannot be merged or converted.
    """
    config = read_json(folder / _CONFIG)
    _refuse(config)
    alpha = _number(config, "lora_alpha")
    tensors = {_plain(name): tensor for name, tensor in read_tensors(folder, "adapter_model").items()}
    invocation = config.get("alora_invocation_tokens") or []
    if not isinstance(invocation, list) or not all(type(token) is int and token >= 0 for token in invocation):
        raise FileProblem(f"{folder / _CONFIG}: alora_invocation_tokens is not a list of token ids")
    low_rank, replaced = _pair(tensors, config)
    return Adapter(
        folder,
        str(config.get("base_model_name_or_path") or ""),
        alpha,
        low_rank,
        replaced,
        tuple(invocation),
        bool(config.get("ensure_weight_tying")),
    )


def _refuse(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"the adapter is of type {kind!r}; only LORA can be merged or converted")
    if used := [key for key in _UNSUPPORTED if config.get(key)]:
        raise ModelError(f"the adapter uses {', '.join(used)}, which this program does not merge; merge it with PEFT")
    if config.get("bias", "none") != "none":
        raise ModelError(f"the adapter trained biases ({config['bias']}), which this program does not merge; use PEFT")
    start = str(config.get("init_lora_weights", ""))
    if start.startswith(_CHANGES_BASE):
        raise ModelError(
            f"the adapter started from {start}, which changes the base too; save it once more with PEFT's "
            "path_initial_model_for_weight_conversion"
        )


def _plain(name: str) -> str:
    """A tensor's name without PEFT's prefix, as in the text model alone."""
    name = name.removeprefix(_PREFIX)
    return text_name(name) or name


def _pair(
    tensors: Mapping[str, SourceTensor], config: Mapping[str, Any]
) -> tuple[dict[str, LowRank], dict[str, SourceTensor]]:
    """Join A and B of each module; what is neither was saved whole."""
    parts: dict[str, dict[str, SourceTensor]] = {}
    replaced: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        require_float(tensor)
        if found := re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?", name):
            parts.setdefault(found[1], {})[(found[2] or "") + found[3]] = tensor
        elif found := re.fullmatch(r"(.+)\.lora_magnitude_vector(\.weight)?", name):
            parts.setdefault(found[1], {})["magnitude"] = tensor
        elif not re.search(r"\.(base_layer|original_module)\.", name):  # PEFT's copies of what it did not train
            # With a grown vocabulary PEFT writes a trained embedding twice, once under its own name for it.
            replaced.setdefault(name.replace(".modules_to_save.", "."), tensor)
    return {f"{module}.weight": _low_rank(module, found, config) for module, found in parts.items()}, replaced


def _low_rank(module: str, found: Mapping[str, SourceTensor], config: Mapping[str, Any]) -> LowRank:
    embedding = "embedding_A" in found
    a, b = (found.get(("embedding_" if embedding else "") + part) for part in "AB")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.elements:
        shapes = {part: tensor.shape for part, tensor in found.items()}
        raise FileProblem(f"the adapter's matrices for {module} do not fit each other: {shapes}; save it again")
    magnitude = found.get("magnitude")
    if bool(config.get("use_dora")) != (magnitude is not None) or (magnitude and embedding):
        raise ModelError(f"the adapter's DoRA settings and its tensors for {module} disagree; merge it with PEFT")
    alpha = _pattern(config, "alpha_pattern", module, _number(config, "lora_alpha"))
    rank = a.shape[0]
    return LowRank(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), embedding, magnitude)


def _pattern(config: Mapping[str, Any], key: str, module: str, default: float) -> float:
    """A module's own setting: PEFT takes the first pattern that matches the end of its name."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise FileProblem(f"{_CONFIG}: {key} is {str(patterns)[:60]!r}, expected an object of patterns")
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return _number(patterns, pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise FileProblem(f"{_CONFIG}: {key} has the pattern {pattern!r}: {error}") from error
    return default


def _number(values: Mapping[str, Any], key: str) -> float:
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise FileProblem(f"{_CONFIG}: {key} is {found!r}, expected a number")
    return float(found)


def _numbers(tensor: SourceTensor) -> F32:
    return as_float32(tensor.stored(), tensor.dtype)

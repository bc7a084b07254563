"""PEFT LoRA adapters: what they add to which tensor, read without trusting them and merged a few rows at a time.

Merging adds scale * B @ A to a weight, in float32 (Hu et al. 2021); DoRA then rescales each row (Liu et al. 2024).
Settings that change anything else are refused by name. Names and files as PEFT's save_pretrained writes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaaligner_lite.errors import FileProblem, ModelError

from .architectures import text_name, unwrapped
from .checkpoint import F32, SourceTensor, as_float32, read_json, read_tensors, require_float, row_chunks

_NAME = r"(?:\.(?!weight$)(?P<name>[^.]+))?"
_MATRIX = re.compile(rf"(?P<module>.+)\.lora_(?P<of>embedding_)?(?P<which>[AB]){_NAME}(?:\.weight)?")
_MAGNITUDE = re.compile(rf"(?P<module>.+)\.lora_magnitude_vector{_NAME}(?:\.weight)?")
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?!weight$|bias$)(?P<name>[^.]+))?\.(?P<rest>weight|bias)")
Rows = slice | NDArray[np.int64]

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_MLX_STEM = "adapters"  # mlx-lm's name for the file of matrices
# PEFT settings under which an adapter is more than scale * B @ A; true, non-empty or non-zero means in use.
_UNSUPPORTED = {
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
}
# Settings that are computed here.
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias"}
_READ |= {"init_lora_weights", "modules_to_save", "alora_invocation_tokens", "ensure_weight_tying"}
_READ |= {"base_model_name_or_path"}
# Settings that say where an adapter sits or how it was trained, and change nothing of what it computes.
_HARMLESS = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "lora_dropout",
    "runtime_config",
}
_HARMLESS |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "qalora_group_size"}
_HARMLESS |= {"megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
_HARMLESS |= {"invocation_string", "alora_invocation_string", "parent_library", "unsloth_version", "_name_or_path"}
# How A and B may begin; all others also change the base, for which PEFT's path_initial_model_for_weight_conversion
# makes a plain adapter.
_PLAIN_STARTS = ("true", "false", "none", "", "gaussian", "eva", "orthogonal", "default")


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


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, perhaps beside a model; a config.json alone, the base's, makes it none.

    Raises ModelError for one of a form not read here, FileProblem for one without its settings.
    """
    if (folder / "adapters.npz").is_file() and not (folder / f"{_MLX_STEM}.safetensors").is_file():
        raise ModelError(
            f"{folder} holds an MLX adapter in adapters.npz; save it with a newer mlx-lm, as {_MLX_STEM}.safetensors"
        )
    if (folder / f"{_MLX_STEM}.safetensors").is_file() and not (folder / _CONFIG).is_file():
        raise FileProblem(
            f"{folder} holds the matrices of an MLX adapter ({_MLX_STEM}.safetensors) without its {_CONFIG}, which has "
            "their scale; copy that too"
        )
    return (folder / _CONFIG).is_file()


def both_note(folder: Path, taken: str) -> str:
    """What to say of a folder with a whole model and an adapter, of which one was `taken`."""
    if taken == "adapter":
        return f"{folder} holds an adapter and a whole model; the adapter was taken, the model left out"
    return (
        f"{folder} holds a whole model and an adapter ({_CONFIG}); the model was taken, the adapter left out: "
        "to merge the adapter, name its base with --base"
    )


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's config and where its tensors lie.

    Raises FileProblem for damaged files, ModelError for settings that cannot be merged or converted.
    """
    config = read_json(folder / _CONFIG)
    if "peft_type" not in config and _is_mlx(folder, config):
        return _read_mlx(folder, config)
    _refuse(config)
    alpha = _number(config, "lora_alpha")
    tensors = _plain(read_tensors(folder, "adapter_model"))
    invocation = config.get("alora_invocation_tokens") or []
    if not isinstance(invocation, list) or not all(type(token) is int and token >= 0 for token in invocation):
        raise FileProblem(f"{folder / _CONFIG}: alora_invocation_tokens is not a list of token ids")
    low_rank, replaced = _pair(tensors, config)
    _refuse_idle(folder, low_rank, replaced)
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
    if used := [key for key in sorted(_UNSUPPORTED) if config.get(key)]:
        raise ModelError(f"the adapter uses {', '.join(used)}, which this program does not merge; merge it with PEFT")
    if config.get("bias", "none") != "none":
        raise ModelError(f"the adapter trained biases ({config['bias']}), which this program does not merge; use PEFT")
    start = str(config.get("init_lora_weights", ""))
    if start.lower() not in _PLAIN_STARTS:
        raise ModelError(
            f"the adapter started from {start}, which changes the base too; save it once more with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    known = _UNSUPPORTED | _READ | _HARMLESS
    if unknown := [key for key, value in config.items() if key not in known and not _off(value)]:
        raise ModelError(
            f"adapter_config.json sets {unknown[0]!r} to {str(config[unknown[0]])[:40]!r}, which is not known here and "
            "may change what the adapter computes; merge it with the PEFT it was made with"
        )


def _off(value: object) -> bool:
    """Whether a setting is not in use: null, false or empty."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _refuse_idle(folder: Path, low_rank: Mapping[str, LowRank], replaced: Mapping[str, SourceTensor]) -> None:
    """Raise ModelError for an adapter that would leave its base as it is: one of each two matrices is all zeros."""
    if replaced or any(pair.magnitude is not None for pair in low_rank.values()):
        return
    if not any(pair.scale and _filled(pair.b) and _filled(pair.a) for pair in low_rank.values()):
        what = "its B matrices are all zeros, as before training" if low_rank else "it holds no matrices"
        raise ModelError(f"this adapter changes nothing: {what}; was {folder} saved before it was trained?")


def _filled(tensor: SourceTensor) -> bool:
    """Whether a matrix has a number other than zero."""
    stored = tensor.stored()
    bits = np.uint16(0x7FFF) if tensor.dtype == "BF16" else None  # zero has a sign, too
    chunks = (stored[rows] for rows in row_chunks(*stored.shape))
    return any(bool(np.any(chunk if bits is None else chunk & bits)) for chunk in chunks)


def _is_mlx(folder: Path, config: Mapping[str, Any]) -> bool:
    return (folder / f"{_MLX_STEM}.safetensors").is_file() or "lora_parameters" in config or "fine_tune_type" in config


def _read_mlx(folder: Path, config: Mapping[str, Any]) -> Adapter:
    """An adapter of mlx-lm: A and B transposed, one scale for all, by names of the same modules.

    Its matrices are turned round where they are read: x @ lora_a @ lora_b there is B @ A @ x here.
    """
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ModelError(
            f"the MLX adapter is of type {str(kind)[:40]!r}, which holds other weights than LoRA; fuse it with "
            "mlx_lm.fuse and convert the folder that makes"
        )
    settings = config.get("lora_parameters")
    if not isinstance(settings, dict):
        raise FileProblem(f"{folder / _CONFIG}: lora_parameters is {str(settings)[:60]!r}, expected rank and scale")
    if unknown := [k for k, v in settings.items() if k not in ("rank", "scale", "dropout", "alpha", "keys") and v]:
        raise ModelError(f"adapter_config.json sets lora_parameters.{unknown[0]}, which is not known here; use mlx-lm")
    scale = _number(settings, "scale")
    if settings.get("alpha") is not None:  # mlx-lm before November 2024
        scale *= _number(settings, "alpha") / _number(settings, "rank") if settings.get("rank") else 1.0
    parts: dict[str, dict[str, SourceTensor]] = {}
    for name, tensor in _plain(read_tensors(folder, _MLX_STEM)).items():
        require_float(tensor)
        found = re.fullmatch(r"(.+)\.(lora_a|lora_b|m)", name)
        if not found or len(tensor.shape) > 2:
            what = "one matrix for each expert" if found else "no LoRA matrix"
            raise ModelError(
                f"the MLX adapter holds {name!r} of shape {tensor.shape}, {what}; fuse it with mlx_lm.fuse"
            )
        parts.setdefault(found[1], {})[found[2]] = tensor
    low_rank = {f"{module}.weight": _mlx_pair(module, found, scale) for module, found in parts.items()}
    _refuse_idle(folder, low_rank, {})
    rank = next(iter(low_rank.values())).rank
    return Adapter(folder, str(config.get("model") or ""), scale * rank, low_rank, {}, (), keeps_ties=True)


def _mlx_pair(module: str, found: Mapping[str, SourceTensor], scale: float) -> LowRank:
    a, b = found.get("lora_a"), found.get("lora_b")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0] or not a.elements:
        shapes = {part: tensor.shape for part, tensor in found.items()}
        raise FileProblem(f"the adapter's matrices for {module} do not fit each other: {shapes}; save it again")
    if module.endswith("embed_tokens"):  # looked up by row: A @ B has the embedding's own shape
        return LowRank(_turned(a), _turned(b), scale, embedding=True)
    return LowRank(_turned(a), _turned(b), scale, magnitude=found.get("m"))


def _turned(tensor: SourceTensor) -> SourceTensor:
    return replace(tensor, shape=tensor.shape[::-1], transposed=True)


def _plain(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """Tensors by their names without PEFT's prefix and any wrapper's, as in the text model alone."""
    plain = {name: tensors[stored] for name, stored in unwrapped(tensors).items()}
    shorter = ((name.removeprefix(_PREFIX), tensor) for name, tensor in plain.items())
    return {text_name(name) or name: tensor for name, tensor in shorter}


def _pair(
    tensors: Mapping[str, SourceTensor], config: Mapping[str, Any]
) -> tuple[dict[str, LowRank], dict[str, SourceTensor]]:
    """Join A and B of each module; what is neither was saved whole."""
    parts: dict[str, dict[str, SourceTensor]] = {}
    replaced: dict[str, SourceTensor] = {}
    adapters: set[str] = set()  # names, in files that keep PEFT's: "default" where nobody chose another
    for name, tensor in tensors.items():
        require_float(tensor)
        if found := _MATRIX.fullmatch(name):
            parts.setdefault(found["module"], {})[(found["of"] or "") + found["which"]] = tensor
            adapters |= {found["name"]} if found["name"] else set()
        elif found := _MAGNITUDE.fullmatch(name):
            parts.setdefault(found["module"], {})["magnitude"] = tensor
        elif found := _SAVED.fullmatch(name):
            adapters |= {found["name"]} if found["name"] else set()
            replaced[f"{found['module']}.{found['rest']}"] = tensor
        elif not re.search(r"\.(base_layer|original_module)\.", name):  # PEFT's copies of what it did not train
            # With a grown vocabulary PEFT writes a trained embedding twice, once under its own name for it.
            replaced.setdefault(name, tensor)
    if len(adapters) > 1:
        raise ModelError(f"the file holds several adapters ({', '.join(sorted(adapters))}); save one by itself")
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

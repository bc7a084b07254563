"""From names and shapes to a list of steps: what each GGUF tensor is made of. Pure; no tensor data is read here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import gguf
import numpy as np

from metaaligner_lite.errors import ModelError

from .adapter import LowRank
from .architectures import Architecture, expected_tensors
from .checkpoint import SourceTensor, require_float
from .config import Config
from .model import EMBEDDING, HEAD, Model

_MATRICES = (".weight", ".lora_a", ".lora_b")
_VECTORS = ("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")  # float32, as llama.cpp has them
_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(down|gate|up)_proj\.weight")
_IGNORED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True, slots=True)
class Step:
    """One GGUF tensor: where its numbers come from and what is done to them.

    `shape` is in PyTorch order. `constants` replaces `source` for tensors that no checkpoint holds. `low_rank` is
    merged in; `heads` > 0 regroups the rows of each head from two halves to neighbouring pairs; then every number is
    multiplied by `times` and `plus` is added. `transposed` swaps rows and columns first (small tensors only). `parts`
    replaces `source` for a tensor that stacks matrices, one for each expert.
    """

    name: str
    shape: tuple[int, ...]
    source: SourceTensor | None = None
    low_rank: LowRank | None = None
    constants: tuple[float, ...] = ()
    heads: int = 0
    times: float = 1.0
    plus: float = 0.0
    transposed: bool = False
    parts: tuple[Step, ...] = ()

    @property
    def merged(self) -> bool:
        """Whether an adapter goes into it."""
        return self.low_rank is not None or any(part.low_rank is not None for part in self.parts)

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def type_in(self, wanted: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
        """Its type in a file of type `wanted`: vectors and norms stay float32, as llama.cpp expects.

        Rows that fill no whole blocks of a quantized type become float16.
        """
        plain = self.name.endswith(_MATRICES) and not self.name.endswith(_VECTORS)
        if len(self.shape) == 1 or not plain:
            return gguf.GGMLQuantizationType.F32
        whole = self.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
        return wanted if whole else gguf.GGMLQuantizationType.F16

    def bytes_in(self, wanted: gguf.GGMLQuantizationType) -> int:
        """Its size in bytes in a file of type `wanted`."""
        block, size = map(int, gguf.GGML_QUANT_SIZES[self.type_in(wanted)])
        return self.elements // block * size


def plan_tensors(model: Model, vocabulary: int) -> list[Step]:
    """The steps that make a model's tensors, in the order they lie on disk.

    Raises ModelError if a tensor is missing, unknown, of the wrong shape, or stored quantized.
    """
    architecture, config, tensors = model.architecture, model.config, model.tensors
    if config.layers > len(tensors):
        raise ModelError(f"config.json names {config.layers:,} layers, the weights hold only {len(tensors):,} tensors")
    if architecture.expert and config.layers * config.integer("num_experts") > len(tensors):
        raise ModelError(
            f"config.json names {config.integer('num_experts'):,} experts in each of {config.layers} layers, "
            f"the weights hold only {len(tensors):,} tensors"
        )
    expected = {**dict(expected_tensors(architecture, config)), **_vocabulary_tensors(config, vocabulary)}
    given = {name: tensor for name, tensor in tensors.items() if not name.endswith(_IGNORED)}
    if model.tied:
        given.pop(HEAD, None)
    _check(expected, given)
    steps = []
    for name, parts in _in_order(expected, given):
        plus = 1.0 if architecture.norm_plus_one and name.endswith("norm.weight") else 0.0
        heads, target = rotary_heads(architecture, config, name), gguf_name(architecture, config, name)
        made = [Step(target, given[p].shape, given[p], model.low_rank.get(p), heads=heads, plus=plus) for p in parts]
        steps.append(made[0] if name in given else Step(target, (len(made), *made[0].shape), parts=tuple(made)))
    return [*rope_factors(architecture, config), *steps]


def _in_order(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, SourceTensor]
) -> Iterator[tuple[str, list[str]]]:
    """Each tensor of the output by the name its source has, and what it is made of, in the order of the files.

    The experts of a layer, where they are one by one, come where the last of them lies: all down, gate, up.
    """
    left: dict[str, int] = {}
    stacks: dict[str, dict[int, str]] = {}
    for name in expected:
        if found := _EXPERT.fullmatch(name):
            left[found[1]] = left.get(found[1], 0) + 1
            stacks.setdefault(f"{found[1]}.{found[3]}_proj.weight", {})[int(found[2])] = name
    for name in sorted(expected, key=lambda name: (str(given[name].file), given[name].offset)):
        found = _EXPERT.fullmatch(name)
        if not found:
            yield name, [name]
            continue
        left[found[1]] -= 1
        if not left[found[1]]:
            for part in ("down", "gate", "up"):
                stack = stacks[f"{found[1]}.{part}_proj.weight"]
                yield f"{found[1]}.{part}_proj.weight", [stack[n] for n in sorted(stack)]


def gguf_name(architecture: Architecture, config: Config, name: str) -> str:
    """A tensor's name in GGUF. Raises ModelError if the architecture has no place for it."""
    found = _name_map(architecture.gguf, config.layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ModelError(f"tensor {name!r} has no place in GGUF's {architecture.gguf} architecture")
    return str(found)


def rotary_heads(architecture: Architecture, config: Config, name: str) -> int:
    """How many heads' rows are regrouped for llama.cpp's rotary embedding; 0 for tensors that stay as they are."""
    if not architecture.interleaved_rotary:
        return 0
    return config.heads if ".q_proj." in name else config.kv_heads if ".k_proj." in name else 0


@cache
def _name_map(architecture: str, layers: int) -> gguf.TensorNameMap:
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(kind, layers)


def _vocabulary_tensors(config: Config, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Embedding and output head; a tokenizer may use fewer rows than there are, never more."""
    rows = config.integer("vocab_size")
    if vocabulary > rows:
        raise ModelError(
            f"the tokenizer has {vocabulary:,} tokens, the embedding only {rows:,} rows; "
            "take the tokenizer files of the base model, or resize the embedding before training"
        )
    shape = (rows, config.hidden)
    return {EMBEDDING: shape} if config.flag("tie_word_embeddings") else {EMBEDDING: shape, HEAD: shape}


def _check(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, SourceTensor]) -> None:
    if missing := [name for name in expected if name not in given]:
        hint = "; set tie_word_embeddings in config.json if the model ties them" if missing == [HEAD] else ""
        raise ModelError(f"{len(missing)} tensors are missing, such as {missing[0]!r}{hint}")
    if unknown := sorted(set(given) - set(expected)):
        hint = "merge the adapter first" if "lora_" in unknown[0] else "is this another architecture, or quantized?"
        raise ModelError(f"{len(unknown)} tensors have no place in this architecture, such as {unknown[0]!r}; {hint}")
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise ModelError(f"tensor {name!r} has the shape {given[name].shape}, config.json says {shape}")
        require_float(given[name])


def rope_factors(architecture: Architecture, config: Config) -> list[Step]:
    """The rotary frequency factors of Llama 3.1 and later, which GGUF stores as a tensor.

    Long wavelengths are stretched by `factor`, short ones kept, those between blended
    (Hugging Face transformers, modeling_rope_utils, rope type llama3).
    """
    rope = config.rope_config()
    kind = str(rope.value("rope_type")).lower()
    if architecture.gguf == "phi3" and kind == "longrope":
        return _long_rope(config, rope)
    if kind != "llama3":
        return []
    old = rope.real("original_max_position_embeddings")
    low, high, factor = rope.real("low_freq_factor"), rope.real("high_freq_factor"), rope.real("factor")
    # Rounded to float32 where torch rounds: other orders differ in the last bit from what transformers computes.
    steps = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    powers = np.power(rope.real("rope_theta"), steps.astype(np.float64)).astype(np.float32)
    turns = old / (2 * math.pi / (1 / powers))  # over the original context
    kept = np.clip((turns - low) / (high - low), 0, 1)
    factors = np.where(kept > 0, 1 / ((1 - kept) / factor + kept), np.float32(factor))
    return [Step("rope_freqs.weight", factors.shape, constants=tuple(factors.tolist()))]


def _long_rope(config: Config, rope: Config) -> list[Step]:
    """Phi-3's two lists of factors: for contexts beyond the original one, and for those within."""
    steps = []
    for span in ("long", "short"):
        factors = rope.reals(f"{span}_factor")
        if len(factors) != config.rotary_dim // 2:
            raise ModelError(
                f"config.json: rope {span}_factor has {len(factors)} numbers, expected {config.rotary_dim // 2}"
            )
        steps.append(Step(f"rope_factors_{span}.weight", (len(factors),), constants=factors))
    return steps

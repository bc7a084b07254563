"""What a Llama-family GGUF file says of its model, in the words of a Hugging Face config.json."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from .errors import ModelError
from .gguf_file import GgufHeader

# GGUF architecture -> the class in transformers
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPE_FACTORS = "rope_freqs.weight"


def hf_config(header: GgufHeader) -> dict[str, Any]:
    """The config.json of the model in a GGUF file.

    Raises ModelError for another family, and for variants that transformers' class of it does not compute.
    """
    family = header.text("general.architecture")
    if family not in FAMILIES:
        raise ModelError(
            f"{header.path} is of the architecture {family!r}; as a base in GGUF {', '.join(FAMILIES)} are known: "
            "name the Hugging Face folder it was made of"
        )
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    if "token_embd.weight" not in shapes or "blk.0.attn_q.weight" not in shapes:
        raise ModelError(f"{header.path} holds no such weights as a {family} has; is it a whole model?")

    def number(key: str, default: float | None = None) -> float:
        found = header.metadata.get(f"{family}.{key}", default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise ModelError(f"{header.path}: {family}.{key} is {found!r}, expected one number")
        return found

    if number("expert_count", 0):
        raise ModelError(f"{header.path} is a mixture of experts, which cannot be a base here")
    hidden, heads = int(number("embedding_length")), int(number("attention.head_count"))
    width = int(number("attention.key_length", hidden // heads))
    if number("rope.dimension_count", width) != width or number("attention.value_length", width) != width:
        raise ModelError(f"{header.path} rotates a part of each head, or has values of another width than its keys")
    biased = "blk.0.attn_q.bias" in shapes
    return {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": int(number("feed_forward_length")),
        "num_hidden_layers": int(number("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(number("attention.head_count_kv", heads)),
        "head_dim": width,
        "vocab_size": shapes["token_embd.weight"][1],
        "max_position_embeddings": int(number("context_length")),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "rope_parameters": _rope(header, number("rope.freq_base", 10000.0), width),
        "tie_word_embeddings": "output.weight" not in shapes,
        "torch_dtype": "float32",
    } | ({"attention_bias": biased} if family == "llama" else {})


def _rope(header: GgufHeader, theta: float, width: int) -> dict[str, Any]:
    family = header.text("general.architecture")
    kind = header.text(f"{family}.rope.scaling.type", "none")
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return plain | {"rope_type": "linear", "factor": float(header.metadata[f"{family}.rope.scaling.factor"])}
    if kind != "none":
        raise ModelError(f"{header.path} scales its rotary embedding by {kind!r}, which cannot be a base here")
    factors = _factors(header)
    if not factors:
        return plain
    # Llama 3.1 and later: GGUF holds the factors, transformers wants what they were made of.
    for factor in (8.0, 32.0):
        rope = plain | {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = 8192
        expected = _llama3(rope, width)
        if len(factors) == len(expected) and all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, factors, strict=True)
        ):
            return rope
    raise ModelError(f"{header.path} has rotary factors of its own, which cannot be told to transformers")


def _factors(header: GgufHeader) -> Sequence[float]:
    """The numbers of the tensor of rotary factors, float32 in every quantization; none without it."""
    for tensor in header.tensors:
        if tensor.name == ROPE_FACTORS:
            with header.path.open("rb") as file:
                file.seek(header.data_offset + tensor.offset)
                return struct.unpack(f"<{tensor.elements}f", file.read(4 * tensor.elements))
    return ()


def _llama3(rope: dict[str, Any], width: int) -> list[float]:
    """The factors of the rope type llama3 (transformers, modeling_rope_utils)."""
    found = []
    for i in range(0, width, 2):
        turns = rope["original_max_position_embeddings"] / (2 * math.pi * rope["rope_theta"] ** (i / width))
        kept = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        kept = min(1.0, max(0.0, kept))
        found.append(1 / ((1 - kept) / rope["factor"] + kept))
    return found

"""A model's GGUF metadata: who made it, its sizes, its tokenizer, the manifest. Key names: ggml docs/gguf.md."""

from __future__ import annotations

import codecs
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf

from metaaligner_lite import manifest
from metaaligner_lite.errors import FileProblem, MalError, ModelError
from metaaligner_lite.files import decode_text, read_head

from .architectures import Architecture
from .checkpoint import read_optional_json
from .config import Config
from .vocab import Vocabulary


def describe(
    about: gguf.Metadata, architecture: Architecture, config: Config, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Every metadata key of a model but the file type, ready for GGUFWriter."""
    writer = gguf.GGUFWriter(None, architecture.gguf)
    writer.add_type(gguf.GGUFType.MODEL)
    about.set_gguf_meta_model(writer)
    _FAMILIES[architecture.gguf](writer, config)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.add_to(writer)
    return dict(writer.kv_data[0])


def identity(folder: Path, parameters: int, base: str = "", experts: tuple[int, int] = (0, 0)) -> gguf.Metadata:
    """Name, licence, base model and sampling defaults, from the model card, the configs and the folder's name.

    `parameters` is negative for an adapter. A `base` on the Hub is named if the model card names none. `experts`: the
    parameters of one expert of each layer together, and how many there are.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mal-convert-") as scratch:
            about = gguf.Metadata.load(None, _in_utf8(folder.resolve(), Path(scratch)), None, parameters)
    except MalError:
        raise
    except Exception as error:  # gguf-py lets whatever its YAML and JSON parsers meet escape
        raise FileProblem(f"model card or config in {folder} cannot be read: {error}; mend or remove it") from error
    about.name = about.name or folder.resolve().name
    if parameters > 0:  # an adapter's own size says little
        expert, count = experts
        size = gguf.size_label(parameters, parameters - expert * count, expert, count)
        about.size_label = about.size_label or size
    if not about.base_models and re.fullmatch(r"[\w-]+/[\w.-]+", base):
        owner, _, name = base.partition("/")
        url = f"https://huggingface.co/{base}"
        about.base_models = [{"name": gguf.Metadata.id_to_title(name), "organization": owner, "repo_url": url}]
    penalty = read_optional_json(folder / "generation_config.json").get("repetition_penalty")
    if about.sampling_penalty_repeat is None and isinstance(penalty, float):
        about.sampling_penalty_repeat = penalty
    return about


def _in_utf8(folder: Path, scratch: Path) -> Path:
    """The folder, or one of its name in `scratch` with plain UTF-8 where a file begins with a byte order mark.

    gguf-py reads these files by itself, and knows no such marks.
    """
    paths = [folder / name for name in ("README.md", "config.json", "generation_config.json")]
    heads = {path: read_head(path) for path in paths if path.is_file()}
    if not any(head.startswith(_MARKS) for head in heads.values()):
        return folder
    copy = scratch / (folder.name or "model")
    copy.mkdir()
    for path in heads:
        (copy / path.name).write_text(decode_text(path.read_bytes(), str(path)), encoding="utf-8")
    return copy


_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def with_manifest(fields: Mapping[str, Any], made: manifest.Manifest) -> dict[str, Any]:
    """The same metadata with the manifest in it."""
    writer = gguf.GGUFWriter(None, "")
    writer.add_string(manifest.GGUF_KEY, made.to_json())
    return {**fields, manifest.GGUF_KEY: writer.kv_data[0][manifest.GGUF_KEY]}


def with_file_type(fields: Mapping[str, Any], file_type: gguf.LlamaFileType) -> dict[str, Any]:
    """The same metadata with the file type in it."""
    writer = gguf.GGUFWriter(None, "")
    writer.add_file_type(int(file_type))
    key = gguf.Keys.General.FILE_TYPE
    return {**fields, key: writer.kv_data[0][key]}


def _common(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_block_count(config.layers)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.integer("intermediate_size"))
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.real("rms_norm_eps"))


def _rotary(writer: gguf.GGUFWriter, config: Config) -> None:
    """Base frequency, and how positions are stretched; Llama 3's way is a tensor (plan.rope_factors)."""
    rope = config.rope_config()
    writer.add_rope_freq_base(rope.real("rope_theta"))
    kind = str(rope.value("rope_type")).lower()
    if kind in ("default", "llama3"):
        return
    if kind not in ("linear", "yarn"):
        raise ModelError(f"the rope scaling {kind!r} is not supported here; supported are linear, yarn, llama3")
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope.real("factor"))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.integer("original_max_position_embeddings"))
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.value(key) is not None:
                add(rope.real(key))


def _head_sizes(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def _llama(writer: gguf.GGUFWriter, config: Config) -> None:
    _common(writer, config)
    _rotary(writer, config)
    _head_sizes(writer, config)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(config.head_dim)


def _qwen2(writer: gguf.GGUFWriter, config: Config) -> None:
    _common(writer, config)
    _rotary(writer, config)


def _qwen3(writer: gguf.GGUFWriter, config: Config) -> None:
    _qwen2(writer, config)
    _head_sizes(writer, config)


def _gemma2(writer: gguf.GGUFWriter, config: Config) -> None:
    _common(writer, config)
    _head_sizes(writer, config)
    rope = config.rope_config()
    if (rope.real("rope_theta"), rope.value("rope_type")) != (10000.0, "default"):
        _rotary(writer, config)
    writer.add_attn_logit_softcapping(config.real("attn_logit_softcapping"))
    writer.add_final_logit_softcapping(config.real("final_logit_softcapping"))
    writer.add_sliding_window(config.integer("sliding_window"))


def _gemma3(writer: gguf.GGUFWriter, config: Config) -> None:
    _common(writer, config)
    _rotary(writer, config)
    _head_sizes(writer, config)
    writer.add_rope_freq_base_swa(config.rope_config().real("sliding_theta"))
    if config.value("final_logit_softcapping") is not None:
        writer.add_final_logit_softcapping(config.real("final_logit_softcapping"))
    writer.add_sliding_window(config.integer("sliding_window"))


def _phi3(writer: gguf.GGUFWriter, config: Config) -> None:
    """Phi-3's long contexts: factors per frequency (plan.rope_factors) and one for the attention's temperature."""
    _common(writer, config)
    rope = config.rope_config()
    original = rope.integer("original_max_position_embeddings")
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(rope.real("rope_theta"))
    writer.add_sliding_window(0 if config.value("sliding_window") is None else config.integer("sliding_window"))
    kind = str(rope.value("rope_type")).lower()
    if kind == "longrope":
        scale = config.integer("max_position_embeddings") / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)
    elif kind != "default":
        raise ModelError(f"the rope scaling {kind!r} is not supported for phi3; supported is longrope")


def _granite(writer: gguf.GGUFWriter, config: Config) -> None:
    """Llama with four multipliers."""
    _common(writer, config)
    _rotary(writer, config)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(config.head_dim)
    for key, add in (
        ("attention_multiplier", writer.add_attention_scale),
        ("embedding_multiplier", writer.add_embedding_scale),
        ("residual_multiplier", writer.add_residual_scale),
        ("logits_scaling", writer.add_logit_scale),
    ):
        if not config.real(key):
            raise ModelError(f"config.json: {key} is 0, which llama.cpp's granite takes for absent")
        add(config.real(key))


def _smollm3(writer: gguf.GGUFWriter, config: Config) -> None:
    _common(writer, config)
    _rotary(writer, config)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(config.head_dim)


def _experts(writer: gguf.GGUFWriter, config: Config) -> None:
    if config.integer("num_experts_per_tok") > config.integer("num_experts"):
        raise ModelError("config.json: num_experts_per_tok is more than num_experts")
    writer.add_expert_count(config.integer("num_experts"))
    writer.add_expert_used_count(config.integer("num_experts_per_tok"))
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))


def _qwen2moe(writer: gguf.GGUFWriter, config: Config) -> None:
    _qwen2(writer, config)
    _experts(writer, config)
    writer.add_expert_shared_feed_forward_length(config.integer("shared_expert_intermediate_size"))


def _qwen3moe(writer: gguf.GGUFWriter, config: Config) -> None:
    _qwen3(writer, config)
    _experts(writer, config)


_FAMILIES: Mapping[str, Callable[[gguf.GGUFWriter, Config], None]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "granite": _granite,
    "olmo2": _qwen2,
    "smollm3": _smollm3,
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
}

"""The architectures this package converts, as data: names, tensors with their shapes, and what changes on the way.

To add one: an `Architecture` below, its metadata in metadata.py if it has keys of its own, its forward pass in
reference.py if it computes something new, a row in tests/convert_models.py. The tests then compare it with
transformers and with llama.cpp's own converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metaaligner_lite.errors import ModelError

from .checkpoint import SourceTensor
from .config import Config

Shapes = Mapping[str, tuple[str, ...]]  # tensor name -> names of its dimensions

_ATTENTION: Shapes = {
    "self_attn.q_proj.weight": ("q", "hidden"),
    "self_attn.k_proj.weight": ("kv", "hidden"),
    "self_attn.v_proj.weight": ("kv", "hidden"),
    "self_attn.o_proj.weight": ("hidden", "q"),
}
_MLP: Shapes = {
    "mlp.gate_proj.weight": ("ff", "hidden"),
    "mlp.up_proj.weight": ("ff", "hidden"),
    "mlp.down_proj.weight": ("hidden", "ff"),
}
_NORMS: Shapes = {"input_layernorm.weight": ("hidden",), "post_attention_layernorm.weight": ("hidden",)}
_QKV_BIAS: Shapes = {f"self_attn.{p}_proj.bias": (d,) for p, d in (("q", "q"), ("k", "kv"), ("v", "kv"))}
_HEAD_NORMS: Shapes = {"self_attn.q_norm.weight": ("head",), "self_attn.k_norm.weight": ("head",)}
_SANDWICH_NORMS: Shapes = {
    **_NORMS,
    "pre_feedforward_layernorm.weight": ("hidden",),
    "post_feedforward_layernorm.weight": ("hidden",),
}


_FUSED: Shapes = {
    "self_attn.qkv_proj.weight": ("qkv", "hidden"),
    "self_attn.o_proj.weight": ("hidden", "q"),
    "mlp.gate_up_proj.weight": ("ff2", "hidden"),
    "mlp.down_proj.weight": ("hidden", "ff"),
}
_WIDE_NORMS: Shapes = {"self_attn.q_norm.weight": ("q",), "self_attn.k_norm.weight": ("kv",)}
_POST_NORMS: Shapes = {"post_attention_layernorm.weight": ("hidden",), "post_feedforward_layernorm.weight": ("hidden",)}
_EXPERT: Shapes = {
    "gate_proj.weight": ("expert", "hidden"),
    "up_proj.weight": ("expert", "hidden"),
    "down_proj.weight": ("hidden", "expert"),
}
_ROUTER: Shapes = {"mlp.gate.weight": ("experts", "hidden")}
_SHARED: Shapes = {
    "mlp.shared_expert.gate_proj.weight": ("shared", "hidden"),
    "mlp.shared_expert.up_proj.weight": ("shared", "hidden"),
    "mlp.shared_expert.down_proj.weight": ("hidden", "shared"),
    "mlp.shared_expert_gate.weight": ("one", "hidden"),
}
_LLAMA_BIASES: Mapping[str, Shapes] = {
    "attention_bias": {**_QKV_BIAS, "self_attn.o_proj.bias": ("hidden",)},
    "mlp_bias": {f"mlp.{p}_proj.bias": (d,) for p, d in (("gate", "ff"), ("up", "ff"), ("down", "hidden"))},
}
_SILU = {"hidden_act": ("silu", "swish")}
_NOT = (None, False)
# Settings under which every layer is a mixture of experts, the only form llama.cpp has.
_SPARSE: Mapping[str, tuple[Any, ...]] = {
    "use_sliding_window": _NOT,
    "decoder_sparse_step": (None, 1),
    "mlp_only_layers": (None, []),
}
_MULTIPLIERS = dict.fromkeys(
    ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), 1.0
)
_GELU = {"hidden_activation": ("gelu_pytorch_tanh",)}


@dataclass(frozen=True)
class Architecture:
    """One family: its name in GGUF and in config.json, its tensors, its differences from the plain Llama."""

    gguf: str
    hf: tuple[str, ...]
    layer: Shapes
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the transformers config class
    requires: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # config key -> values llama.cpp computes
    biases: Mapping[str, Shapes] = field(default_factory=dict)  # config flag -> tensors it adds
    interleaved_rotary: bool = False  # llama.cpp rotates neighbouring rows: q and k rows are permuted
    norm_plus_one: bool = False  # norms store weight - 1
    scaled_embedding: bool = False  # embeddings are multiplied by the root of their width
    gelu: bool = False  # tanh-approximated GELU in place of SiLU
    full_attention_every: int = 1  # every n-th layer attends to everything, the others to a sliding window
    expert: Shapes = field(default_factory=dict)  # tensors of each expert, in "mlp.experts.N."
    weights_add_to_one: bool = False  # of the experts a token is sent to
    multipliers: bool = False  # Granite's four, from config.json
    unrotated_every: int = 0  # every n-th layer has no rotary embedding
    full_attention: str = "full_attention"  # its name in layer_types


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "llama",
        ("LlamaForCausalLM", "LLaMAForCausalLM"),
        {**_NORMS, **_ATTENTION, **_MLP},
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "hidden_act": "silu"},
        _SILU,
        _LLAMA_BIASES,
        interleaved_rotary=True,
    ),
    Architecture(
        "llama",
        ("MistralForCausalLM",),
        {**_NORMS, **_ATTENTION, **_MLP},
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8, "hidden_act": "silu"},
        _SILU,
        interleaved_rotary=True,
    ),
    Architecture(
        "qwen2",
        ("Qwen2ForCausalLM",),
        {**_NORMS, **_ATTENTION, **_QKV_BIAS, **_MLP},
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32, "hidden_act": "silu"},
        {**_SILU, "use_sliding_window": (None, False)},
    ),
    Architecture(
        "qwen3",
        ("Qwen3ForCausalLM",),
        {**_NORMS, **_ATTENTION, **_HEAD_NORMS, **_MLP},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "hidden_act": "silu",
        },
        {**_SILU, "use_sliding_window": (None, False), "attention_bias": (None, False)},
    ),
    Architecture(
        "gemma2",
        ("Gemma2ForCausalLM",),
        {**_SANDWICH_NORMS, **_ATTENTION, **_MLP},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
        {**_GELU, "attention_bias": (None, False), "tie_word_embeddings": (True,)},
        norm_plus_one=True,
        scaled_embedding=True,
        gelu=True,
        full_attention_every=2,
    ),
    Architecture(
        "gemma3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        {**_SANDWICH_NORMS, **_ATTENTION, **_HEAD_NORMS, **_MLP},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "vocab_size": 262208,
            "tie_word_embeddings": True,
        },
        {
            **_GELU,
            "attention_bias": (None, False),
            "attn_logit_softcapping": (None,),
            "sliding_window_pattern": (None, 6),
            "use_bidirectional_attention": (None, False),
        },
        norm_plus_one=True,
        scaled_embedding=True,
        gelu=True,
        full_attention_every=6,
    ),
    Architecture(
        "phi3",
        ("Phi3ForCausalLM",),
        {**_NORMS, **_FUSED},
        {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 1.0,
            "hidden_act": "silu",
        },
        {**_SILU, "head_dim": (None,), "attention_bias": (None, False)},
    ),
    Architecture(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        {**_NORMS, **_ATTENTION, **_QKV_BIAS, **_ROUTER, **_SHARED},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "hidden_act": "silu",
        },
        {**_SILU, **_SPARSE, "qkv_bias": (None, True), "norm_topk_prob": (None, False), "tie_word_embeddings": _NOT},
        expert=_EXPERT,
    ),
    Architecture(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        {**_NORMS, **_ATTENTION, **_HEAD_NORMS, **_ROUTER},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "hidden_act": "silu",
        },
        {**_SILU, **_SPARSE, "attention_bias": _NOT, "norm_topk_prob": (True,)},
        expert=_EXPERT,
        weights_add_to_one=True,
    ),
    Architecture(
        "granite",
        ("GraniteForCausalLM",),
        {**_NORMS, **_ATTENTION, **_MLP},
        {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "hidden_act": "silu", **_MULTIPLIERS},
        {**_SILU, "head_dim": (None,)},
        _LLAMA_BIASES,
        interleaved_rotary=True,
        multipliers=True,
    ),
    Architecture(
        "granite",
        ("GraniteMoeHybridForCausalLM",),
        {**_NORMS, **_ATTENTION, **_MLP},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "num_local_experts": 8,
            **_MULTIPLIERS,
        },
        {
            **_SILU,
            "head_dim": (None,),
            "num_local_experts": (0,),
            "num_experts_per_tok": (None, 0),
            "position_embedding_type": ("rope",),
            "attention_bias": _NOT,
        },
        interleaved_rotary=True,
        multipliers=True,
        full_attention="attention",
    ),
    Architecture(
        "olmo2",
        ("Olmo2ForCausalLM",),
        {**_POST_NORMS, **_ATTENTION, **_WIDE_NORMS, **_MLP},
        {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu"},
        {**_SILU, "head_dim": (None,), "attention_bias": _NOT, "clip_qkv": (None,), "tie_word_embeddings": _NOT},
    ),
    Architecture(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        {**_NORMS, **_ATTENTION, **_MLP},
        {
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "hidden_act": "silu",
            "rope_theta": 2_000_000.0,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
        },
        {**_SILU, "use_sliding_window": _NOT, "attention_bias": _NOT, "mlp_bias": _NOT, "head_dim": (None,)},
        interleaved_rotary=True,
        unrotated_every=4,
    ),
)

# Layers of the models whose attention llama.cpp scales by the model's width instead of the head's.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}


def find(raw: Mapping[str, Any]) -> tuple[Architecture, Config]:
    """The architecture a config.json names, and its values with defaults.

    Raises ModelError, naming what there is, for an unknown one or a variant that llama.cpp computes differently.
    """
    names = raw.get("architectures")
    named = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    for architecture in ARCHITECTURES:
        if named in architecture.hf:
            inner = raw.get("text_config")
            values = {**raw, **inner} if isinstance(inner, Mapping) else raw
            if architecture.full_attention == "attention" and "shared_intermediate_size" in values:
                values = {**values, "intermediate_size": values["shared_intermediate_size"]}  # the one MLP there is
            if architecture.expert and values.get("num_experts") is None and "num_local_experts" in values:
                values = {**values, "num_experts": values["num_local_experts"]}  # transformers 5 writes this one
            config = Config(values, architecture.defaults)
            _refuse_variants(architecture, config)
            return architecture, config
    known = ", ".join(sorted({name for architecture in ARCHITECTURES for name in architecture.hf}))
    what = f"{named!r} is" if named else "none named in config.json is"
    raise ModelError(f"the architecture {what} not supported; supported are {known}")


def _refuse_variants(architecture: Architecture, config: Config) -> None:
    """Raise ModelError for settings under which llama.cpp would compute something else."""
    for key, allowed in architecture.requires.items():
        if (found := config.value(key)) not in allowed:
            wanted = " or ".join(str(value) for value in allowed)
            raise ModelError(f"config.json: {key} is {found!r}; llama.cpp's {architecture.gguf} has only {wanted}")
    if used := [key for key in ("quantization_config", "quantization") if config.raw.get(key)]:  # the latter is MLX's
        raise ModelError(
            f"the checkpoint is quantized already ({used[0]} in config.json): to quantize it again, or to "
            "merge an adapter into it, would round twice; take the 16 or 32-bit original, for an adapter as --base"
        )
    every, kinds = architecture.full_attention_every, config.value("layer_types")
    full = architecture.full_attention
    expected = [full if (i + 1) % every == 0 else "sliding_attention" for i in range(config.layers)]
    named = [full if kind == "full_attention" else kind for kind in kinds] if isinstance(kinds, list) else kinds
    if kinds is not None and named != expected and (config.value("sliding_window") is not None or full == "attention"):
        raise ModelError(f"config.json: layer_types differ from llama.cpp's {architecture.gguf}: full every {every}")
    if architecture.unrotated_every:
        _refuse_other_rotation(architecture, config)
    if config.value("query_pre_attn_scalar") is not None:
        by_width = _SCALED_BY_WIDTH.get(architecture.gguf) == config.layers
        llama_cpp = config.hidden // config.heads if by_width else config.head_dim
        if config.real("query_pre_attn_scalar") != llama_cpp:
            raise ModelError(
                f"config.json: query_pre_attn_scalar is {config.value('query_pre_attn_scalar')}, "
                f"llama.cpp's {architecture.gguf} of {config.layers} layers uses {llama_cpp}"
            )


def _refuse_other_rotation(architecture: Architecture, config: Config) -> None:
    """Raise ModelError if other layers lack a rotary embedding than llama.cpp leaves out."""
    every = architecture.unrotated_every
    expected = [int((i + 1) % every != 0) for i in range(config.layers)]
    listed, step = config.value("no_rope_layers"), config.value("no_rope_layer_interval")
    if listed not in (None, expected) or (listed is None and step != every):
        what = f"no_rope_layers is {str(listed)[:60]}" if listed is not None else f"no_rope_layer_interval is {step}"
        raise ModelError(f"config.json: {what}; llama.cpp's {architecture.gguf} has each {every}th layer without")


# What wrappers of a module put into the names of its tensors: torch.compile, DDP, FSDP, activation checkpointing,
# DeepSpeed and its like.
_WRAPPERS = {
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_ddp_module",
}


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Tensor names as the model itself has them -> as they are stored, with what wrappers put into them.

    Raises ModelError if two tensors get one name.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if plain in found:
            raise ModelError(f"the weights hold {found[plain]!r} and {name!r}, which are one tensor; save them once")
        found[plain] = name
    return found


def text_name(name: str) -> str | None:
    """A tensor's name in the text model alone; None for the vision parts of a model that has both."""
    if name.startswith(
        ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    ):
        return None
    for prefix, plain in (("language_model.", ""), ("model.language_model.", "model.")):
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def dimensions(config: Config) -> dict[str, int]:
    """The sizes that shapes are made of."""
    head = config.head_dim
    return {
        "hidden": config.hidden,
        "ff": config.integer("intermediate_size"),
        "head": head,
        "q": head * config.heads,
        "kv": head * config.kv_heads,
        "qkv": head * (config.heads + 2 * config.kv_heads),
        "ff2": 2 * config.integer("intermediate_size"),
    }


def expert_sizes(config: Config) -> dict[str, int]:
    """The sizes that a mixture of experts adds."""
    shared = config.value("shared_expert_intermediate_size")
    return {
        "experts": config.integer("num_experts"),
        "expert": config.integer("moe_intermediate_size"),
        "shared": 0 if shared is None else config.integer("shared_expert_intermediate_size"),
        "one": 1,
    }


def expected_tensors(architecture: Architecture, config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of every tensor a model must have, embeddings and output head aside."""
    sizes = dimensions(config) | (expert_sizes(config) if architecture.expert else {})
    layer = dict(architecture.layer)
    experts = range(sizes["experts"] if architecture.expert else 0)
    for flag, extra in architecture.biases.items():
        if config.flag(flag):
            layer |= extra
    for i in range(config.layers):
        for name, shape in layer.items():
            yield f"model.layers.{i}.{name}", tuple(sizes[size] for size in shape)
        for n in experts:
            for name, shape in architecture.expert.items():
                yield f"model.layers.{i}.mlp.experts.{n}.{name}", tuple(sizes[size] for size in shape)
    yield "model.norm.weight", (sizes["hidden"],)


_JOINED = re.compile(r"(.+\.mlp\.experts)\.(gate_up_proj|down_proj)(?:\.weight)?")
_SHARED_MLP = re.compile(r"(.+)\.shared_mlp\.(input|output)_linear\.weight")


def split(name: str, tensor: SourceTensor) -> dict[str, SourceTensor]:
    """A tensor that holds several of the names above, as those: all experts of a layer, or gate and up of Granite 4.

    The others stay as they are.
    """
    if (found := _SHARED_MLP.fullmatch(name)) and len(tensor.shape) == 2:
        if found[2] == "output":
            return {f"{found[1]}.mlp.down_proj.weight": tensor}
        half = tensor.shape[0] // 2
        parts = (("gate", tensor.part(0, half)), ("up", tensor.part(half, tensor.shape[0] - half)))
        return {f"{found[1]}.mlp.{part}_proj.weight": piece for part, piece in parts}
    if (found := _JOINED.fullmatch(name)) and len(tensor.shape) == 3:
        experts = {f"{found[1]}.{n}": tensor.item(n) for n in range(tensor.shape[0])}
        if found[2] == "down_proj":
            return {f"{at}.down_proj.weight": one for at, one in experts.items()}
        half = tensor.shape[1] // 2
        gates = {f"{at}.gate_proj.weight": one.part(0, half) for at, one in experts.items()}
        return gates | {f"{at}.up_proj.weight": one.part(half, one.shape[0] - half) for at, one in experts.items()}
    return {name: tensor}

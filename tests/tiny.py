"""Tiny models with random weights, written as GGUF by hand: what the runtime's tests run on, without torch."""

from pathlib import Path

import gguf
import numpy as np

from metaaligner_lite.generation import GREEDY, Generation, Sampling
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.decode import Task, generate

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write(context: Context, prompt: list[int], max_tokens: int, sampling: Sampling = GREEDY, **options) -> Generation:
    """Generate one text."""
    return generate(context, [Task(prompt, max_tokens, sampling, **options)])[0]


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(spare)) for b in range(256)]


def write_model(
    path: Path,
    *,
    template: str | None = CHATML,
    n_ctx: int = 512,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
    architecture: str = "llama",
    tensors: bool = True,
    window: int = 0,
    epsilon: float = 1e-5,
    specials: list[str] = SPECIALS,
    special_type: gguf.TokenType = gguf.TokenType.CONTROL,
    unused: int = 0,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    tied: bool = True,
    norm: float = 1.0,
    numbers: dict[str, float] | None = None,
) -> Path:
    """A random byte-level Llama (Gemma 2 with a sliding window, Mamba) whose ids are special tokens, then bytes.

    After them `unused` tokens, which no text has; matrices are quantized, and the first also gives the logits if tied.
    """
    rng = np.random.default_rng(seed)
    tokens = [*specials, *byte_tokens(), *(f"[unused{i}]" for i in range(unused))]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width * 2)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width // heads)
    writer.add_value_length(width // heads)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if architecture == "mamba":
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(width * 2)
        writer.add_ssm_state_size(8)
        writer.add_ssm_time_step_rank(4)
    if window:
        writer.add_sliding_window(window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([special_type] * len(specials) + [gguf.TokenType.NORMAL] * (256 + unused))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    for key, number in (numbers or {}).items():
        (writer.add_int32 if isinstance(number, int) else writer.add_float32)(key, number)

    def add(name: str, *shape: int) -> None:
        scale = 1.0 if len(shape) == 1 else 2.0 / np.sqrt(shape[-1])
        data = (np.full(shape, norm) if len(shape) == 1 else rng.normal(0, scale, shape)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else quantization
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)

    if tensors:
        kv_width = width // heads * kv_heads
        add("token_embd.weight", len(tokens), width)
        add("output_norm.weight", width)
        if not tied:
            add("output.weight", len(tokens), width)
        for i in range(layers):
            add(f"blk.{i}.attn_norm.weight", width)
            if architecture == "mamba":
                inner, state, rank = width * 2, 8, 4
                add(f"blk.{i}.ssm_in.weight", inner * 2, width)
                add(f"blk.{i}.ssm_conv1d.weight", inner, 4)
                add(f"blk.{i}.ssm_conv1d.bias", inner)
                add(f"blk.{i}.ssm_x.weight", rank + 2 * state, inner)
                add(f"blk.{i}.ssm_dt.weight", inner, rank)
                add(f"blk.{i}.ssm_dt.bias", inner)
                writer.add_tensor(f"blk.{i}.ssm_a", np.full((inner, state), -1, np.float32))
                add(f"blk.{i}.ssm_d", inner)
                add(f"blk.{i}.ssm_out.weight", width, inner)
                continue
            add(f"blk.{i}.ffn_norm.weight", width)
            if architecture == "gemma2":
                add(f"blk.{i}.post_attention_norm.weight", width)
                add(f"blk.{i}.post_ffw_norm.weight", width)
            add(f"blk.{i}.attn_q.weight", width, width)
            add(f"blk.{i}.attn_k.weight", kv_width, width)
            add(f"blk.{i}.attn_v.weight", kv_width, width)
            add(f"blk.{i}.attn_output.weight", width, width)
            add(f"blk.{i}.ffn_gate.weight", width * 2, width)
            add(f"blk.{i}.ffn_up.weight", width * 2, width)
            add(f"blk.{i}.ffn_down.weight", width, width * 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(
    path: Path,
    invocation: list[int] | None,
    *,
    width: int = 64,
    kv_width: int = 32,
    architecture: str = "llama",
    seed: int = 9,
    **keys: str,
) -> Path:
    """A random LoRA adapter on q and v of a tiny Llama; activated if it names invocation tokens."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    if invocation:
        writer.add_key_value(
            "adapter.alora.invocation_tokens", invocation, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
        )
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    for i in range(2):
        for name, rows in (("attn_q", width), ("attn_v", kv_width)):
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_a", rng.normal(0, 0.3, (4, width)).astype(np.float32))
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_b", rng.normal(0, 0.3, (rows, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

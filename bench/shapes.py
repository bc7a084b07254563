"""Models of a real size with random weights: what a benchmark needs where no real model may be downloaded.

    python bench/shapes.py --cache DIR [--shape 1.1b | small | wide]

Speed and memory depend on shapes, not on values, so random weights measure them as well as trained ones do. What
random weights cannot tell is which tokens a model would choose: bench/pair.py gives those ("replay").

A shape is written as F16 tensor by tensor, quantized to Q4_K_M by llama.cpp itself and kept in DIR (1.1b: 0.6 GB,
about a minute). With it comes a random activated adapter (LoRA of rank 32 on q, k, v and o). The vocabulary holds the
words of the benchmark's texts and those of the vocabulary of tests/models: another pair makes other files.
"""

import argparse
import ctypes
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from edits import ADAPTER, ALIGNER, OBJECTIVE_SETS, POLICY, TEXTS

from metaaligner_lite.gguf_file import read_header
from metaaligner_lite.objectives import resolve
from metaaligner_lite.prompts import edit_prompt
from metaaligner_lite.templates import PLAIN_DIALOGUE

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
RANK = 32


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    n_ctx: int = 2048

    @property
    def kv_width(self) -> int:
        return self.width // self.heads * self.kv_heads


SHAPES = {
    "1.1b": Shape(layers=22, width=2048, heads=32, kv_heads=4, ffn=5632, vocab=32000),  # TinyLlama
    "small": Shape(layers=6, width=512, heads=8, kv_heads=2, ffn=1536, vocab=32000),  # for trying the benchmark out
    # Heads of 128 and as many of keys and values, as in Llama 2 7B; half as wide, and made in seconds.
    "wide": Shape(layers=4, width=2048, heads=16, kv_heads=16, ffn=5632, vocab=32000),
}
TRAINED = "trained"  # not random: the small pair of tests/models


@dataclass(frozen=True)
class Files:
    model: Path
    adapter: Path


@dataclass(frozen=True)
class Pair:
    """Two files, as of a real pair, and the adapter of a shared base over the first."""

    policy: Path
    aligner: Path
    adapter: Path
    shape: Shape


def pair(name: str, cache: Path) -> Pair:
    """The pair of a shape: random, the aligner a copy of the policy, or the trained one with its adapter."""
    if name == TRAINED:
        return Pair(POLICY, ALIGNER, ADAPTER, _shape_of(POLICY))
    files = build(name, cache)
    second = files.model.with_name(f"second-{files.model.name}")
    if not second.exists():
        shutil.copy(files.model, second)
    return Pair(files.model, second, files.adapter, SHAPES[name])


def _shape_of(path: Path) -> Shape:
    header = read_header(path)
    keys = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
    keys += ("feed_forward_length", "vocab_size", "context_length")
    architecture = header.text("general.architecture")
    return Shape(*(int(header.metadata[f"{architecture}.{key}"]) for key in keys))


def build(name: str, cache: Path) -> Files:
    """The files of a shape, made unless they are there."""
    shape, tokens_key = SHAPES[name], "\n".join(_words())
    key = hashlib.sha256(f"2{shape}{tokens_key}{RANK}{CHATML}".encode()).hexdigest()[:8]
    cache.mkdir(parents=True, exist_ok=True)
    files = Files(cache / f"{name}-{key}-Q4_K_M.gguf", cache / f"{name}-{key}-alora-F16.gguf")
    if not files.model.exists():
        full = cache / f"{name}-{key}-F16.{os.getpid()}"
        half_done = files.model.with_suffix(f".{os.getpid()}")
        try:
            _write_model(full, shape)
            _quantize(full, half_done)
            half_done.replace(files.model)
        finally:
            full.unlink(missing_ok=True)
            half_done.unlink(missing_ok=True)
    if not files.adapter.exists():
        _write_adapter(files.adapter, shape, _invocation(files.model))
    return files


def _words() -> list[str]:
    """The words of the benchmark's texts: one token each, so that texts have about as many tokens as in real models.

    What the trained pair will write is not known; its vocabulary's words stand for that.
    """
    tokens = gguf.GGUFReader(POLICY).fields["tokenizer.ggml.tokens"].contents()
    found = {token[1:] for token in tokens if re.fullmatch("Ġ[A-Za-z]+", token)}
    for line in TEXTS.read_text(encoding="utf-8").splitlines():
        for text in json.loads(line).values():
            if isinstance(text, str):
                found.update(re.findall(r" ([A-Za-z]+)", text))
    for objectives in OBJECTIVE_SETS:
        request = edit_prompt("conversation", "q", "a", resolve(objectives), PLAIN_DIALOGUE)
        found.update(re.findall(r" ([A-Za-z]+)", " ".join(piece.text for piece in request)))
    return sorted(found)


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE: the bytes, the words (each spelled from its left end), and filler.

    Every merge begins with the space before the word, so that no two words' merges get in each other's way.
    """
    tokens = dict.fromkeys([*SPECIALS, *_byte_tokens()])
    merges: dict[str, None] = {}
    for word in _words():
        for end in range(1, len(word) + 1):
            merges[f"Ġ{word[: end - 1]} {word[end - 1]}"] = None
            tokens[f"Ġ{word[:end]}"] = None
    tokens.update(dict.fromkeys(f"[unused{i}]" for i in range(size - len(tokens))))
    return list(tokens), list(merges)


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(spare)) for b in range(256)]


def _tensors(shape: Shape, vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, kv, ffn = shape.width, shape.kv_width, shape.ffn
    yield "token_embd.weight", (vocab, width)
    yield "output_norm.weight", (width,)
    yield "output.weight", (vocab, width)
    for i in range(shape.layers):
        yield f"blk.{i}.attn_norm.weight", (width,)
        yield f"blk.{i}.ffn_norm.weight", (width,)
        yield f"blk.{i}.attn_q.weight", (width, width)
        yield f"blk.{i}.attn_k.weight", (kv, width)
        yield f"blk.{i}.attn_v.weight", (kv, width)
        yield f"blk.{i}.attn_output.weight", (width, width)
        yield f"blk.{i}.ffn_gate.weight", (ffn, width)
        yield f"blk.{i}.ffn_up.weight", (ffn, width)
        yield f"blk.{i}.ffn_down.weight", (width, ffn)


def _write_model(path: Path, shape: Shape) -> None:
    tokens, merges = vocabulary(shape.vocab)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIALS) + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIALS))
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    tensors = list(_tensors(shape, len(tokens)))
    for name, dims in tensors:
        dtype = np.dtype(np.float32 if len(dims) == 1 else np.float16)
        writer.add_tensor_info(name, dims, dtype, int(np.prod(dims)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    # One block of noise serves all, each time from another place on, so that no two rows of a tensor are the same.
    noise = np.random.default_rng(0).normal(0, 0.02, 1 << 22).astype(np.float16)
    for i, (_, dims) in enumerate(tensors):
        if len(dims) == 1:
            data = np.ones(dims, np.float32)
        else:
            blocks = -(-int(np.prod(dims)) // noise.size)
            data = np.concatenate([np.roll(noise, (i * 97 + k) * 4099) for k in range(blocks)])
            data = data[: int(np.prod(dims))].reshape(dims)
        writer.write_tensor_data(data)
    writer.close()


def _quantize(source: Path, target: Path) -> None:
    from metaaligner_lite.llama.library import library

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = os.cpu_count() or 1
    status = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        raise SystemExit(f"llama.cpp cannot quantize {source} (status {status})")


def _invocation(model: Path) -> list[int]:
    """The tokens an edit request begins with in this vocabulary."""
    from metaaligner_lite.llama.model import open_model
    from metaaligner_lite.prompts import CONVERSATION, invocation

    with open_model(model, gpu_layers=0, repack=False) as opened:
        return invocation(CONVERSATION, opened.template, opened)


def _write_adapter(path: Path, shape: Shape, invocation: list[int]) -> None:
    rng = np.random.default_rng(9)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    writer.add_key_value(
        "adapter.alora.invocation_tokens", invocation, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
    )
    width, kv = shape.width, shape.kv_width
    for i in range(shape.layers):
        for name, rows in (("attn_q", width), ("attn_k", kv), ("attn_v", kv), ("attn_output", width)):
            a, b = rng.normal(0, 0.02, (RANK, width)), rng.normal(0, 0.02, (rows, RANK))
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_a", a.astype(np.float16))
            writer.add_tensor(f"blk.{i}.{name}.weight.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the files (1.1b: 0.6 GB)")
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    options = parser.parse_args()
    began = time.perf_counter()
    files = build(options.shape, options.cache)
    sizes = {file.name: file.stat().st_size for file in (files.model, files.adapter)}
    for name, size in sizes.items():
        print(f"{name:<40}{size / 1e6:>10.1f} MB")
    print(json.dumps({"shape": options.shape, "files": sizes, "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()

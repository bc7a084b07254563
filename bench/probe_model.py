"""Make metaaligner_lite/llama/probe.gguf, which the safe-start probe reads one batch with: the same bytes every time.

    python bench/probe_model.py [OUT.gguf]

One Llama layer of random weights, as small as can be with each kind of block that llama.cpp rearranges for AMX or for
other vector units: rows of 256 (where a block is 32 long, of 64 too), matrices of a multiple of 32 rows. The vocabulary
is a valid one: GPT-2's bytes and one merge after three special tokens.
"""

import argparse
import hashlib
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

OUT = Path(__file__).parents[1] / "metaaligner_lite" / "llama" / "probe.gguf"
WIDTH, INNER, VOCABULARY = 256, 64, 288
# Of a block: scales before its random bytes, how many of those, scales after them, and what a scale is (float16).
BLOCKS = {
    Kind.Q4_0: (1, 16, 0, 2**-6),
    Kind.Q4_1: (2, 16, 0, 2**-6),
    Kind.Q8_0: (1, 32, 0, 2**-10),
    Kind.Q4_K: (2, 140, 0, 2**-12),
    Kind.Q5_K: (2, 172, 0, 2**-13),
    Kind.Q6_K: (0, 208, 1, 2**-13),
}
MATRICES = {
    "token_embd": (VOCABULARY, WIDTH, Kind.Q4_K),
    "blk.0.attn_q": (INNER, WIDTH, Kind.Q4_0),
    "blk.0.attn_k": (INNER, WIDTH, Kind.Q4_1),
    "blk.0.attn_v": (INNER, WIDTH, Kind.Q5_K),
    "blk.0.attn_output": (WIDTH, INNER, Kind.Q4_0),
    "blk.0.ffn_gate": (INNER, WIDTH, Kind.Q6_K),
    "blk.0.ffn_up": (INNER, WIDTH, Kind.Q4_K),
    "blk.0.ffn_down": (WIDTH, INNER, Kind.Q8_0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=OUT)
    out = parser.parse_args().out
    write(out)
    print(f"{out}: {out.stat().st_size:,} bytes")


def write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("metaaligner-lite safe-start probe")
    writer.add_description("Random weights: it writes nothing anyone could read")
    writer.add_license("MIT")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(INNER)
    writer.add_value_length(INNER)
    writer.add_rope_dimension_count(INNER)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    specials = ["<|unknown|>", "<|begin|>", "<|end|>"]
    unused = [f"<|unused{i}|>" for i in range(VOCABULARY - 257 - len(specials))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*specials, *byte_tokens(), "Ġa", *unused])
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(specials) + [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.UNUSED] * len(unused)
    )
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, (rows, width, kind) in MATRICES.items():
        writer.add_tensor(f"{name}.weight", matrix(name, rows, width, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def matrix(name: str, rows: int, width: int, kind: Kind) -> np.ndarray:
    """Blocks of random bytes (SHAKE-256 of the name, which no version of anything changes) and fixed scales."""
    before, size, after, scale = BLOCKS[kind]
    blocks = rows * width // gguf.GGML_QUANT_SIZES[kind][0]
    noise = np.frombuffer(hashlib.shake_256(name.encode()).digest(blocks * size), np.uint8).reshape(blocks, size)
    scales = np.full((blocks, before + after), scale, "<f2").view(np.uint8).reshape(blocks, -1)
    return np.hstack([scales[:, : 2 * before], noise, scales[:, 2 * before :]]).reshape(rows, -1)


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


if __name__ == "__main__":
    main()

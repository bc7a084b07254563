"""Facts about a GGUF file from its header alone, and the memory it will need."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import manifest as manifests
from .gguf_file import GgufHeader, LongArray, read_header, recommended_sampling
from .llama.context import BATCH, kv_type, quantized
from .manifest import Manifest

_PROGRAM = 60_000_000  # Python, this program and llama.cpp without a model
_REPACKED = ("Q4_0", "Q4_K", "Q2_K", "IQ4_NL")  # types that llama.cpp rearranges on common CPUs
_KEPT = 24 << 20  # most bytes of a freed buffer that glibc holds on to (bench/LOG.md)
_TOKEN = 280  # bytes that llama.cpp needs for a token's text and merge


def describe(path: Path, ctx_size: int, kv: str = "f16", flash: bool = False, unpacked: bool = False) -> dict[str, Any]:
    """What a GGUF file is, as plain values. Raises FileProblem if it is damaged or cut short.

    The memory is estimated for `ctx_size` tokens of context, a KV cache of the type `kv`, flash attention or none, and
    the weights as they are or `unpacked` to F16.
    """
    header = read_header(path)
    weights = header.check_tensors()
    architecture = header.text("general.architecture", "not said")
    parameters = sum(tensor.elements for tensor in header.tensors)
    types = Counter(tensor.type_name for tensor in header.tensors)
    manifest = header.text(manifests.GGUF_KEY)
    return {
        "file": str(path),
        "file_bytes": header.file_size,
        "name": header.text("general.name"),
        "kind": header.text("general.type", "model"),
        "architecture": architecture,
        "parameters": parameters,
        "tensors": len(header.tensors),
        "quantization": _file_type(header),
        "bits_per_weight": 8 * weights / parameters if parameters else 0.0,
        "tensor_types": dict(types.most_common()),
        "context": _number(header, "context_length"),
        "vocabulary": _vocabulary(header),
        "tokenizer": "/".join(filter(None, (header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre")))),
        "chat_template_chars": len(header.text("tokenizer.chat_template")),
        "sampling": recommended_sampling(header),
        "license": header.text("general.license"),
        "memory": memory_needed(header, ctx_size, kv, flash, unpacked),
        "manifest": asdict(Manifest.from_json(manifest, str(path))) if manifest else None,
    }


def memory_needed(
    header: GgufHeader, ctx_size: int, kv: str = "f16", flash: bool = False, unpacked: bool = False
) -> dict[str, int]:
    """Bytes to run a model on the CPU with a full context, and their total: within 10 % of the measured peak.

    Parts: weights, KV cache, llama.cpp's working buffers, the program with the vocabulary. The working part is fitted
    to llama-cpp-python 0.3.36 (tests/test_memory.py measures it): without flash attention the scores of a batch, in
    32 bits and again in 16, then activations; and what the allocator keeps of the batch before. A quantized cache needs
    `flash` attention. Sliding windows are counted as full attention. Raises UsageError for an unknown `kv`.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType(kv_type(kv))]
    weights = sum(tensor.bytes for tensor in header.tensors) + _second_embedding(header)
    if unpacked:
        weights = 2 * sum(tensor.elements for tensor in header.tensors)
    layers, width, heads = (_number(header, key) for key in ("block_count", "embedding_length", "attention.head_count"))
    kv_heads = _number(header, "attention.head_count_kv") or heads
    per_head = width // heads if heads else 0
    key = _number(header, "attention.key_length") or per_head
    value = _number(header, "attention.value_length") or per_head
    kv_cache = round(ctx_size * layers * kv_heads * (key + value) * size / numbers)
    batch = min(BATCH, ctx_size)
    activations = 4 * batch * (width + _number(header, "feed_forward_length"))
    flash = flash or quantized(kv)
    scores = 2 * batch * ctx_size if flash else (6 * heads + 2) * batch * ctx_size
    working = scores + (round(2.4 * activations) + 4_000_000 if flash else activations + 2_000_000)
    if not flash:  # each batch copies the scores into a larger buffer, and the one before may stay
        working += min(2 * heads * batch * (ctx_size - batch), _KEPT)
    program = _PROGRAM + _TOKEN * _vocabulary(header)
    total = weights + kv_cache + working + program
    return {"weights": weights, "kv_cache": kv_cache, "working": working, "program": program, "total": total}


def _second_embedding(header: GgufHeader) -> int:
    """Bytes of a token embedding that is held twice: as it is, and rearranged since it also gives the logits."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    embedding = tensors.get("token_embd.weight")
    if embedding is None or "output.weight" in tensors or embedding.type_name not in _REPACKED:
        return 0
    return embedding.bytes


def _vocabulary(header: GgufHeader) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return tokens.count if isinstance(tokens, LongArray) else len(tokens or ())


def _number(header: GgufHeader, key: str) -> int:
    """An architecture's own number; the largest where it differs by layer, 0 if absent."""
    value = header.metadata.get(f"{header.text('general.architecture')}.{key}", 0)
    if isinstance(value, tuple):
        value = max((item for item in value if isinstance(item, int)), default=0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _file_type(header: GgufHeader) -> str:
    from gguf.constants import LlamaFileType

    value = header.metadata.get("general.file_type")
    try:
        return str(LlamaFileType(value).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return "not said"

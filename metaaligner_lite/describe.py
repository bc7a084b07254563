"""Facts about a GGUF file from its header alone, and the memory it will need."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import manifest as manifests
from .gguf_file import GgufHeader, LongArray, read_header
from .manifest import Manifest

_BATCH = 512  # tokens that llama.cpp works on at once (llama/context.py)
_HALF = 2  # bytes of a number in the KV cache (F16)


def describe(path: Path, ctx_size: int) -> dict[str, Any]:
    """What a GGUF file is, as plain values. Raises FileProblem if it is damaged or cut short."""
    header = read_header(path)
    weights = header.check_tensors()
    architecture = header.text("general.architecture", "not said")
    parameters = sum(tensor.elements for tensor in header.tensors)
    types = Counter(tensor.type_name for tensor in header.tensors)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
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
        "vocabulary": tokens.count if isinstance(tokens, LongArray) else len(tokens or ()),
        "tokenizer": "/".join(filter(None, (header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre")))),
        "chat_template_chars": len(header.text("tokenizer.chat_template")),
        "license": header.text("general.license"),
        "memory": memory_needed(header, ctx_size),
        "manifest": asdict(Manifest.from_json(manifest, str(path))) if manifest else None,
    }


def memory_needed(header: GgufHeader, ctx_size: int) -> dict[str, int]:
    """Bytes to run a model at a context size: weights, KV cache, working buffers, and their total.

    The working part is an upper-side estimate of llama.cpp's compute graph: logits and activations of one
    batch. Sliding windows are counted as full attention.
    """
    weights = sum(tensor.bytes for tensor in header.tensors)
    layers, width, heads = (_number(header, key) for key in ("block_count", "embedding_length", "attention.head_count"))
    kv_heads = _number(header, "attention.head_count_kv") or heads
    per_head = width // heads if heads else 0
    key = _number(header, "attention.key_length") or per_head
    value = _number(header, "attention.value_length") or per_head
    kv_cache = ctx_size * layers * kv_heads * (key + value) * _HALF
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    vocabulary = embedding.shape[-1] if embedding else 0
    batch = min(_BATCH, ctx_size)
    working = (
        4 * batch * (vocabulary + 6 * width + _number(header, "feed_forward_length")) + 4 * batch * heads * ctx_size
    )
    return {"weights": weights, "kv_cache": kv_cache, "working": working, "total": weights + kv_cache + working}


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

"""`mal info`: what a GGUF file says of itself, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    ctx_size: Annotated[
        int, typer.Option("--ctx-size", min=1, help="Estimate the memory for this many tokens of context.")
    ] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show architecture, size, quantization, chat template, manifest and memory needed of a GGUF file."""
    from ..describe import describe
    from .console import human_bytes, print_json

    facts = describe(file, ctx_size)
    if as_json:
        print_json(facts)
        return
    memory = facts["memory"]
    rows = {
        "file": f"{facts['file']} ({human_bytes(facts['file_bytes'])})",
        "name": facts["name"],
        "kind": facts["kind"],
        "architecture": facts["architecture"],
        "parameters": f"{facts['parameters']:,} in {facts['tensors']} tensors",
        "quantization": f"{facts['quantization']} ({facts['bits_per_weight']:.2f} bits per weight: "
        + ", ".join(f"{count} {name}" for name, count in facts["tensor_types"].items())
        + ")",
        "trained context": f"{facts['context']:,} tokens" if facts["context"] else "not said",
        "vocabulary": f"{facts['vocabulary']:,} tokens ({facts['tokenizer']})",
        "chat template": f"{facts['chat_template_chars']:,} characters" if facts["chat_template_chars"] else "none",
        "licence": facts["license"],
        "memory": f"{human_bytes(memory['total'])} at {ctx_size:,} tokens: weights {human_bytes(memory['weights'])}, "
        f"KV cache {human_bytes(memory['kv_cache'])}, working {human_bytes(memory['working'])} (estimate)",
    }
    width = max(map(len, rows))
    for label, value in rows.items():
        if value:
            print(f"{label:{width}}  {value}")
    _print_manifest(facts["manifest"], width)


def _print_manifest(manifest: dict[str, Any] | None, width: int) -> None:
    """The manifest in lines; the training settings and metrics, which fill a screen, are left to --json."""
    if manifest is None:
        print(f"{'manifest':{width}}  none: as an aligner it needs --layout")
        return
    for key in ("role", "kind", "layout", "objectives", "base", "data", "conversion", "made_by"):
        value = manifest[key]
        if isinstance(value, dict):
            value = ", ".join(value if key == "objectives" else (f"{k} {v}" for k, v in value.items()))
        if value:
            print(f"{key:{width}}  {value}")
    if manifest["recipe"]:
        print(f"{'training':{width}}  recipe and metrics: see --json")

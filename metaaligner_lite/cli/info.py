"""`mal info`: what a GGUF file says of itself, without loading it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    ctx_size: Annotated[
        int, typer.Option("--ctx-size", min=1, help="Estimate the memory for this many tokens of context.")
    ] = 2048,
    kv: Annotated[str, typer.Option("--kv", help="... and this type of KV cache: f16, q8_0, q4_0, bf16, f32.")] = "f16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show architecture, size, quantization, chat template, manifest and memory needed of a GGUF file."""
    from ..describe import describe
    from ..gguf_file import read_header
    from ..llama.tune import remembered
    from ..llama.unpacked import suits
    from ..output import printable
    from .console import human_bytes, print_json

    header = read_header(file)
    tuning = remembered(header)
    facts = describe(
        file,
        ctx_size,
        kv,
        flash=tuning is not None and tuning.flash,
        unpacked=tuning.unpack if tuning else header.text("general.type") != "adapter" and suits(header, -1),
    )
    facts["tuned"] = asdict(tuning) if tuning else None
    if as_json:
        print_json(facts)
        return
    rows = {
        "file": f"{facts['file']} ({human_bytes(facts['file_bytes'])})",
        "name": facts["name"],
        "kind": facts["kind"],
        "architecture": facts["architecture"],
        "parameters": f"{facts['parameters']:,} in {facts['tensors']} tensors",
        "quantization": _quantization(facts),
        "trained context": f"{facts['context']:,} tokens" if facts["context"] else "not said",
        "vocabulary": f"{facts['vocabulary']:,} tokens ({facts['tokenizer']})",
        "chat template": f"{facts['chat_template_chars']:,} characters" if facts["chat_template_chars"] else "none",
        "sampling": ", ".join(f"{name} {value:g}" for name, value in facts["sampling"].items()),
        "licence": facts["license"],
        "memory": _memory(facts, ctx_size, kv),
    }
    if tuning:
        rows["tuned"] = (
            f"yes: flash attention {'on' if tuning.flash else 'off'}, "
            f"{tuning.threads} threads for single tokens, {tuning.batch_threads} for batches, "
            f"repacking {'on' if tuning.repack else 'off'}, as F16 {'on' if tuning.unpack else 'off'}, "
            f"{1000 * tuning.costs[0][1]:.1f} ms per token"
        )
    elif facts["kind"] != "adapter" and facts["tensors"]:
        rows["tuned"] = f"no; mal tune {file} measures what suits it here"
    width = max(map(len, rows))
    for label, value in rows.items():
        if value:
            print(f"{label:{width}}  {printable(value)}")
    _print_manifest(facts["manifest"], width)


def _quantization(facts: dict[str, Any]) -> str:
    if not facts["tensors"]:
        return "none: a vocabulary without weights, it cannot run"
    types = ", ".join(f"{count} {name}" for name, count in facts["tensor_types"].items())
    return f"{facts['quantization']} ({facts['bits_per_weight']:.2f} bits per weight: {types})"


def _memory(facts: dict[str, Any], ctx_size: int, kv: str) -> str:
    from .console import human_bytes

    if not facts["tensors"]:
        return ""
    memory = {part: human_bytes(count) for part, count in facts["memory"].items()}
    if facts["kind"] == "adapter":
        return f"{memory['weights']} beside its base"
    if not facts["memory"]["kv_cache"]:
        return f"weights {memory['weights']}; the rest cannot be estimated, the file does not say its layers and heads"
    return (
        f"{memory['total']} at {ctx_size:,} tokens: weights {memory['weights']}, KV cache {memory['kv_cache']} ({kv}), "
        f"working {memory['working']}, program {memory['program']} (estimate of the peak on a CPU)"
    )


def _print_manifest(manifest: dict[str, Any] | None, width: int) -> None:
    """The manifest in lines; the training settings and metrics, which fill a screen, are left to --json."""
    from ..output import printable

    if manifest is None:
        print(f"{'manifest':{width}}  none: as an aligner it needs --layout")
        return
    for key in ("role", "kind", "layout", "objectives", "bars", "gates", "base", "data", "conversion", "made_by"):
        value = manifest[key]
        if isinstance(value, dict):
            value = ", ".join(value if key == "objectives" else (f"{k} {v}" for k, v in value.items()))
        if value:
            print(f"{key:{width}}  {printable(str(value))}")
    if not manifest["layout"]:
        print(f"{'as an aligner':{width}}  needs --layout: it was not trained as one, or the manifest does not say")
    if manifest["recipe"]:
        print(f"{'training':{width}}  recipe and metrics: see --json")

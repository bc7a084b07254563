"""Fold an adapter into its base: a plain model folder that transformers, `mal convert` and others read.

The weights alone change. The tokenizer, the template and the configuration are the base's own files, byte for
byte but for the dtype; a tokenizer saved anew is the commonest reason why a conversion fails.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import FileProblem, ModelError

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".onnx", ".index.json")
_DTYPES = ("float32", "bfloat16", "float16")


def merge(adapter: Path, base: Path, out: Path, dtype: str = "auto") -> Path:
    """Write `base` with `adapter` folded in to the new folder `out`, and return it.

    The sums are made in float32 and stored in `dtype` (auto: the base's own). Raises ModelError for a quantized
    base, an activated adapter, or weights that are not finite; FileProblem if files are missing.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    check_base(base)
    config = _config(base)
    if getattr(PeftConfig.from_pretrained(adapter), "alora_invocation_tokens", None):
        raise ModelError(f"{adapter} is an activated adapter, which cannot be merged; use it beside its base")
    stored = _stored_dtype(config, base) if dtype == "auto" else dtype
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    try:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"{adapter} cannot be merged: {error}") from error
    model = model.to(getattr(torch, stored))
    if broken := [name for name, value in model.state_dict().items() if not value.isfinite().all()]:
        raise ModelError(f"{broken[0]} is not finite as {stored} (float16 ends at 65504); store bfloat16 or float32")
    out.mkdir(parents=True)
    model.save_pretrained(out)
    copy_base_files(base, out)
    key = "dtype" if "dtype" in config else "torch_dtype"
    if config.get(key) == stored:
        shutil.copyfile(base / "config.json", out / "config.json")
    else:
        (out / "config.json").write_text(json.dumps({**config, key: stored}, indent=2) + "\n", encoding="utf-8")
    return out


def check_base(base: Path) -> None:
    """Refuse a base that nothing can be merged into, without opening it. Raises ModelError if it is quantized."""
    if "quantization_config" in _config(base):
        raise ModelError(
            f"{base} is quantized, and merging would round the adapter away; take the 16-bit base it was made of "
            "(lora.quantize = 'nf4' holds it in 4 bits while it trains), or train kind = 'activated'"
        )


def copy_base_files(base: Path, out: Path) -> None:
    """Copy what describes the base (tokenizer, template, generation settings), but no weights and no configuration."""
    for path in sorted(base.iterdir()):
        described = path.suffix in {".json", ".model", ".txt", ".jinja"} and not path.name.endswith(_WEIGHTS)
        if path.is_file() and described and path.name not in {"config.json", "metaaligner.json"}:
            shutil.copyfile(path, out / path.name)


def _config(base: Path) -> dict[str, Any]:
    try:
        raw = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileProblem(f"{base} is no model folder: {error}; expected config.json, weights and tokenizer") from error
    if not isinstance(raw, dict):
        raise FileProblem(f"{base / 'config.json'} is not a JSON object")
    return raw


def _stored_dtype(config: dict[str, Any], base: Path) -> str:
    """The dtype of the base's weights: as its configuration says, else as its first tensor is, else float32."""
    named = config.get("dtype") or config.get("torch_dtype")
    if named in _DTYPES:
        return str(named)
    from safetensors import safe_open

    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                found = str(file.get_tensor(name).dtype).removeprefix("torch.")
                return found if found in _DTYPES else "float32"  # never in 8 bits, nor in 64
    return "float32"

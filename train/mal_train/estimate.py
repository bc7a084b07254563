"""How much memory a run will take, from file headers alone: said before anything large is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import ModelError

from .lora import cuda, memory
from .packed import BLOCK, obstacle
from .progress import Progress
from .recipe import Recipe

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes: of the base's weights, of the adapter with its gradients and Adam moments, of one batch.

    In main memory the program itself, with the libraries that it has loaded by now, counts as well.
    """

    base: int
    adapter: int
    batch: int
    program: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.needed + self.program

    @property
    def needed(self) -> int:
        """What is still to be found."""
        return self.base + self.adapter + self.batch

    def __str__(self) -> str:
        return (
            f"about {self.total / _GIB:.1f} GiB (base {self.base / _GIB:.1f}, adapter {self.adapter / _GIB:.1f}, "
            f"batch {self.batch / _GIB:.1f}" + (f", program {self.program / _GIB:.1f})" if self.program else ")")
        )


def estimate(base: Path, recipe: Recipe) -> Estimate | None:
    """A rough need, from the shapes in the safetensors headers and the configuration; None without such headers."""
    shapes = [shape for path in sorted(base.glob("*.safetensors")) for shape in _shapes(path)]
    if not shapes:
        return None
    config = _config(base)
    matrices = [shape for shape in shapes if len(shape) == 2 and config.get("vocab_size") not in shape]
    weights, adapted = (sum(map(math.prod, some)) for some in (shapes, matrices))
    if recipe.lora.quantize:  # embeddings, head and norms stay whole: peft casts them to float32
        held = 0.55 * adapted + 4.0 * (weights - adapted)
    else:
        held = weights * (4.0 if not cuda() or recipe.training.precision == "float32" else 2.0)
    packed = recipe.kind == "activated" and not obstacle(base, recipe)
    adapter = 16 * recipe.lora.rank * sum(sum(shape) for shape in matrices)
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    middle, vocabulary = int(config.get("intermediate_size", 0)), int(config.get("vocab_size", 0))
    kept = 4.0 if not cuda() or recipe.training.precision == "float32" else 2.0
    # Per token and layer: inputs of the linear layers, their LoRA sides, what normalization and gating keep.
    per_layer = kept * (10 * hidden + 5 * middle + 7 * recipe.lora.rank)
    checkpointed = recipe.training.gradient_checkpointing
    per_token = layers * kept * hidden + per_layer if checkpointed else layers * per_layer
    tokens = _largest_batch(recipe)
    if packed:  # only requests and edits are kept for the way back
        batch = _packed(config, recipe, tokens, kept) + 3 * 4 * min(BLOCK, tokens) * vocabulary
    else:  # logits are made for the edits alone, about half of the tokens: once in 16 bit, three times in 32
        batch = tokens * (per_token + 0.5 * 14 * vocabulary)
    return Estimate(round(held), adapter, round(batch), 0 if cuda() else memory())


def _packed(config: Mapping[str, Any], recipe: Recipe, tokens: int, kept: float) -> float:
    """Bytes that llama_pass holds of a batch, 0.7 of it read with gradients, as in the fullest of a real corpus."""
    hidden, layers, middle = (
        int(config.get(key, 0)) for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    heads = int(config.get("num_attention_heads", 1))
    kv = hidden * int(config.get("num_key_value_heads", heads)) // heads
    # Attention keeps keys and values as wide as queries, for each group of edits once more.
    layer = 2 * 4 * hidden + kept * (7 * hidden + 2 * kv + 3 * middle + 7 * recipe.lora.rank)
    whole = layers * (2 * 4 * hidden if recipe.training.gradient_checkpointing else layer) + 3 * layer
    return tokens * (0.7 * whole + 0.3 * layers * kept * (2 * hidden + 2 * kv))


def check(base: Path, recipe: Recipe, progress: Progress) -> None:
    """Say what is needed and what is free. Raises ModelError if the weights alone cannot fit."""
    need, free = estimate(base, recipe), free_memory()
    if need is None:
        progress.say(f"memory: unknown, since the weights are no safetensors files; {free / _GIB:.1f} GiB free")
        return
    progress.say(f"memory: {need}, {free / _GIB:.1f} GiB free")
    if need.base + need.adapter > free:
        raise ModelError(
            f"this run needs {need} and {free / _GIB:.1f} GiB are free; take a smaller base"
            + (", lora.quantize = 'nf4'" if cuda() else "")
            + f" or a lora.rank below {recipe.lora.rank}"
        )
    if recipe.kind == "merged" and (whole := _merging(base)) > (main := _main_memory()):
        progress.say(
            f"merging afterwards takes about {whole / _GIB:.1f} GiB of main memory, and {main / _GIB:.1f} are free "
            "now; if it fails, free some and repeat the command with --resume: nothing is trained twice"
        )
    if need.needed > free:
        advice = "" if recipe.training.gradient_checkpointing else " or set training.gradient_checkpointing = true"
        tokens, length = recipe.training.batch_tokens, recipe.data.max_length
        lower = f"training.batch_tokens ({tokens})" if tokens >= length else f"data.max_length ({length})"
        progress.say(f"that may not fit: lower {lower}{advice}")


def _largest_batch(recipe: Recipe) -> int:
    """Tokens: of a full batch, or of the longest edit, which may be more and makes a batch alone."""
    return max(recipe.training.batch_tokens, recipe.data.max_length)


def free_memory() -> int:
    """Bytes free on the accelerator if there is one, else in main memory."""
    import torch

    return torch.cuda.mem_get_info()[0] if cuda() else _main_memory()


def _main_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _merging(base: Path) -> int:
    """Bytes to merge in: the weights in float32, and once more as they are stored."""
    return sum(6 * math.prod(shape) for path in base.glob("*.safetensors") for shape in _shapes(path))


def _shapes(path: Path) -> list[list[int]]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError):
        return []  # opening the model will say what is wrong with the file
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def _config(base: Path) -> dict[str, Any]:
    try:
        raw = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}

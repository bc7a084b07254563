"""The model side: open the base, attach the adapter, say what it will cost."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaaligner_lite import manifest
from metaaligner_lite.errors import FileProblem, MissingExtra, ModelError, UsageError

from .attention import attend_in_float32
from .recipe import Lora, Recipe

if TYPE_CHECKING:
    import torch

_WEIGHTS = "adapter_model.safetensors"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' progress bars and advice for a while; `Progress` tells what matters."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torch|peft|transformers|accelerate)\b")
            yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def open_base(base: Path, recipe: Recipe) -> Any:
    """The base model for training: float32 on a CPU, 16 bit on CUDA (the adapter stays float32), or 4 bit."""
    import torch
    from transformers import AutoModelForCausalLM

    precision = recipe.training.precision
    dtype = getattr(torch, precision) if cuda() and precision != "float32" else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if recipe.lora.quantize:
        options |= {"quantization_config": _four_bits(dtype), "device_map": {"": torch.cuda.current_device()}}
    try:
        model = AutoModelForCausalLM.from_pretrained(base, **options)
        if cuda() and not recipe.lora.quantize:
            model.to(torch.cuda.current_device())  # before llama_pass.py takes hold of the weights
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileProblem(
            f"cannot open the base model {base}: {reason}; expected a Hugging Face folder of a causal language model"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = " or lora.quantize = 'nf4'" if cuda() and not recipe.lora.quantize else ""
        raise ModelError(f"memory ran out while opening the base model {base}; take a smaller one{advice}") from error
    model.config.use_cache = False
    if precision == "bfloat16" and not cuda():
        attend_in_float32()
    return model


def attach(model: Any, recipe: Recipe, invocation: list[int] | None = None, start: Path | None = None) -> Any:
    """A PEFT model with a new adapter; with `invocation`, one that acts from those tokens on (aLoRA).

    Its weights are random, or those of the adapter folder `start`. Raises UsageError if `lora.targets` names no
    module of the model, or `start` has other weights than the recipe's.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import set_seed

    lora: Lora = recipe.lora
    names = [name.strip() for name in lora.targets.split(",") if name.strip()]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if lora.targets == "all-linear" else names,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        alora_invocation_tokens=invocation,
        task_type="CAUSAL_LM",
    )
    if recipe.lora.quantize:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if recipe.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()  # else no gradient reaches an adapter behind frozen embeddings
    set_seed(recipe.seed)  # the adapter begins with random numbers
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"lora.targets = {lora.targets!r} does not fit this model: {error}") from error
    _refuse_shared_targets(adapted, lora.targets)
    if start:
        _take_over(adapted, start)
    return adapted


def keep_few_primitives() -> None:
    """Let oneDNN remember few shapes, if it has not begun yet; a setting of the user's own is left alone.

    It keeps what it compiled for a shape, 1,024 of them, and every batch has another one: gigabytes in an hour.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")


def choose_precision(wanted: str) -> str:
    """The precision to compute in; "auto" takes bfloat16 on a GPU that has it and on a CPU where it is faster."""
    import torch

    if wanted != "auto":
        return wanted
    if cuda():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return faster_on_cpu()


@cache
def faster_on_cpu() -> str:
    """The precision to compute in on this processor, measured: bfloat16 where it is clearly faster, else float32.

    Measured once in a process. Where bfloat16 is many times slower (no instructions for it) one look is enough.
    """
    import torch

    half = full = math.inf
    for _ in range(4):  # alternating, and the best of each: another program's burst of work must not decide
        half, full = min(half, _seconds(torch.bfloat16)), min(full, _seconds(torch.float32))
        if half > 8 * full:
            break
    return "bfloat16" if half < 0.8 * full else "float32"


def check_machine(recipe: Recipe) -> None:
    """Refuse what this machine cannot do, before anything is read. Raises UsageError or MissingExtra."""
    from importlib.util import find_spec

    if recipe.lora.quantize and not cuda():
        raise UsageError("lora.quantize = 'nf4' (QLoRA) needs a CUDA GPU and there is none; leave it out on a CPU")
    if (recipe.lora.quantize or "8bit" in recipe.training.optimizer) and find_spec("bitsandbytes") is None:
        raise MissingExtra(
            "bitsandbytes not installed; 4-bit bases and 8-bit optimizers need: pip install bitsandbytes"
        )
    if recipe.training.precision == "float16" and not cuda():
        raise UsageError("training.precision = 'float16' needs a CUDA GPU; on a CPU use auto, bfloat16 or float32")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in text for sign in ("allocate memory", "not enough memory", "cublas_status_alloc_failed")
    )


def explain_out_of_memory(error: Exception, recipe: Recipe) -> ModelError | None:
    """The error to raise for one that says that memory ran out in training; None for any other."""
    if not is_out_of_memory(error):
        return None
    training, length = recipe.training, recipe.data.max_length
    advice = []
    if training.batch_tokens > length:  # else the longest edit is a batch alone, and smaller batches spare nothing
        fewer = f"training.batch_tokens below {training.batch_tokens}"
        advice.append(f"{fewer} (and training.accumulate above {training.accumulate})")
    if not training.gradient_checkpointing:
        advice.append("training.gradient_checkpointing = true")
    if cuda() and not recipe.lora.quantize:
        advice.append("lora.quantize = 'nf4'")
    advice.append(f"data.max_length below {length}")
    return ModelError(f"memory ran out while training; try, in this order: {'; '.join(advice)}")


def cuda() -> bool:
    """Whether there is a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def memory() -> int:
    """Bytes in use: the accelerator's peak if there is one, else this process's resident memory."""
    import psutil
    import torch

    return torch.cuda.max_memory_allocated() if cuda() else int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most bytes that were in use so far: of the accelerator if there is one, else of this process."""
    if cuda():
        return memory()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _four_bits(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _refuse_shared_targets(adapted: Any, targets: str) -> None:
    """An adapter on a tied lm_head would change the embeddings when it is merged."""
    model = adapted.get_base_model()
    if not model.config.tie_word_embeddings:
        return
    shared = (model.get_output_embeddings(), model.get_input_embeddings())
    # PEFT keeps what adapts an embedding apart from what adapts a linear layer.
    kinds = ("lora_A", "lora_embedding_A")
    if any(len(getattr(layer, kind, ())) for layer in shared for kind in kinds):
        raise UsageError(
            f"lora.targets = {targets!r} adapts embeddings that this model shares between input and output, "
            "so the adapter could not be merged; leave lm_head and embed_tokens out"
        )


def check_start(start: Path, base: str, layout: str = "") -> None:
    """Refuse what is no adapter, or one of a base of another fingerprint, or of another layout ("": whatever it is)."""
    if not (start / "adapter_config.json").is_file() or not (start / _WEIGHTS).is_file():
        raise FileProblem(
            f"{start} holds no adapter to start from; expected a folder with adapter_config.json and {_WEIGHTS}, "
            "such as the adapter/ of an earlier training"
        )
    made = manifest.read(start)
    if made and base and made.fingerprint and made.fingerprint != base:
        raise UsageError(f"{start} was trained over another base, {made.base}; start from an adapter of this one")
    if made and layout and made.layout and made.layout != layout:
        raise UsageError(
            f"{start} was trained in the layout {made.layout}, and this run is to use {layout}; "
            f"an adapter goes on with the layout it began with: --layout {made.layout}"
        )


def _take_over(adapted: Any, start: Path) -> None:
    """Give a new adapter the weights of another one of the same shape and scale."""
    from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights, old = load_file(start / _WEIGHTS), PeftConfig.from_pretrained(str(start))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise FileProblem(f"cannot read the adapter {start}: {(str(error).splitlines() or ['damaged'])[0]}") from error
    new = adapted.peft_config["default"]
    for key, of in (("r", "lora.rank"), ("lora_alpha", "lora.alpha"), ("use_rslora", "lora.rslora")):
        if getattr(old, key, None) != getattr(new, key):
            raise UsageError(
                f"{start} has {of} = {getattr(old, key, None)}, the recipe {getattr(new, key)}; "
                "an adapter goes on with the settings it began with"
            )
    # A merged one may begin with what an activated one knows: the same weights, which then act on the prompt, too.
    if new.alora_invocation_tokens and old.alora_invocation_tokens != new.alora_invocation_tokens:
        raise UsageError(f"{start} is of another kind or layout than the recipe's; name those it began with")
    wanted = {name: tuple(weight.shape) for name, weight in get_peft_model_state_dict(adapted).items()}
    if wanted != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise UsageError(f"{start} changes other weights than lora.targets = {new.target_modules} names in this model")
    set_peft_model_state_dict(adapted, weights)


def _seconds(dtype: torch.dtype) -> float:
    """The best time of a matrix product of the size a small model has, forward and back."""
    import torch

    a, b = torch.randn(2048, 512).to(dtype), torch.randn(512, 512).to(dtype)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        _ = a @ b
        _ = a.T @ (a @ b.T)
        times.append(time.perf_counter() - begin)
    return min(times)

"""Several processes training together (accelerate launch, torchrun); alone, each of these does next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def world() -> int:
    """How many processes train together."""
    return int(_state().num_processes)


def gpus() -> int:
    """How many CUDA GPUs this process sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def is_main() -> bool:
    """Whether this process is the one that talks and writes files."""
    return bool(_state().is_main_process)


def wait() -> None:
    """Wait until every process has come here."""
    _state().wait_for_everyone()


def add(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if world() == 1:
        return values
    from accelerate.utils import reduce

    return reduce(values.to(_state().device), reduction="sum").cpu()  # type: ignore[no-any-return]


def agree(value: float) -> float:
    """The main process's value, in every process: clocks differ, decisions must not."""
    if world() == 1:
        return value
    import torch
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([value], dtype=torch.float32, device=_state().device))[0])


def _state() -> Any:
    import os

    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true")

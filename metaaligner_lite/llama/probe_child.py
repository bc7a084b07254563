"""What the safe-start probe runs in a process of its own (probe.py): one batch of repacked weights."""

from __future__ import annotations

from pathlib import Path

from .context import Context
from .model import open_model

PROBE = Path(__file__).with_name("probe.gguf")  # bench/probe_model.py makes it


def main() -> None:
    """Read a batch; where llama.cpp crashes, this process dies."""
    with open_model(PROBE, gpu_layers=0, repack=True) as model, Context(model, 256) as context:
        context.read([token % model.n_vocab for token in range(1, 129)])


if __name__ == "__main__":
    main()

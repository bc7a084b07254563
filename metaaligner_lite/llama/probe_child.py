"""What the safe-start probe runs in a process of its own (probe.py): one batch of repacked weights."""

from __future__ import annotations

from ..demo import DEMO_ALIGNER
from .context import Context
from .model import open_model


def main() -> None:
    """Read a batch; where llama.cpp crashes, this process dies."""
    with open_model(DEMO_ALIGNER, gpu_layers=0, repack=True) as model, Context(model, 256) as context:
        context.read([token % model.n_vocab for token in range(1, 129)])


if __name__ == "__main__":
    main()

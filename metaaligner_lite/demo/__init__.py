"""The embedded pair: a small policy, a small aligner, and the same as an adapter over the policy (MODEL_CARD.md)."""

from __future__ import annotations

from pathlib import Path

DEMO_POLICY = Path(__file__).with_name("policy.gguf")
DEMO_ALIGNER = Path(__file__).with_name("aligner.gguf")
DEMO_ADAPTER = Path(__file__).with_name("adapter.gguf")  # activated: acts from the edit request on

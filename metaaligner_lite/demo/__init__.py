"""The embedded pair: a small policy and a small aligner, trained by this project (MODEL_CARD.md)."""

from __future__ import annotations

from pathlib import Path

DEMO_POLICY = Path(__file__).with_name("policy.gguf")
DEMO_ALIGNER = Path(__file__).with_name("aligner.gguf")

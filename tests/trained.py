"""Small trained models (tests/models): for what random weights cannot show, such as drafts that hold in a real edit."""

import json
from pathlib import Path

MODELS = Path(__file__).with_name("models")
POLICY = MODELS / "policy.gguf"
ALIGNER = MODELS / "aligner.gguf"
ADAPTER = MODELS / "adapter.gguf"  # activated, over the policy: acts from the edit request on


def prompts() -> list[tuple[str, list[str]]]:
    """200 queries of the kind these models know, each with the objectives to edit its answer toward."""
    lines = (MODELS / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["query"], row["objectives"]) for row in map(json.loads, lines)]

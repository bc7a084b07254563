"""Attention in float32 where the products around it are computed in bfloat16 on a processor.

torch's fused attention has no fast bfloat16 backward pass there: on an AVX-512 machine with fast bfloat16 products it
took 1.8 times as long as in float32, which made training in bfloat16 slower as a whole (bench/LOG.md).
"""

from __future__ import annotations

from typing import Any


def attend_in_float32() -> None:
    """Let transformers' "sdpa" attention compute in float32 under autocast on a CPU, in this process.

    It keeps its name: some models choose their masks by it.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("sdpa", _attend)


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)

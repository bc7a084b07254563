"""Attention in float32 where the products around it are computed in bfloat16 on a processor.

torch's fused attention has no fast bfloat16 backward pass there: on an AVX-512 machine with fast bfloat16 products it
took 1.8 times as long as in float32, which made training in bfloat16 slower as a whole (bench/LOG.md).
"""

from __future__ import annotations

from typing import Any

NAME = "mal_float32_sdpa"


def use_float32_attention(model: Any) -> None:
    """Let a transformers model with torch's attention ("sdpa") compute it in float32, whatever autocast says."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if model.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        model.config._attn_implementation = NAME


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)

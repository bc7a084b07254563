"""A head start in copying: weights of a new Llama set so that it repeats what the conversation holds.

Copying needs two attention heads that work together (an induction circuit): one tells every position which token
came before it, the other looks for positions whose previous token is the current one and takes over what stands
there. Gradient descent finds the pair only after many millions of tokens, more than a laptop reads in half an hour.
So the pair is written into the first two layers before training. It uses nothing but ordinary Llama weights.

A new model so made predicts two thirds of held-out fact tokens before any training. Followed by drills of random tokens
(drills.py) and a moderate rate it got to 98 % within 3 million tokens; at a higher rate, without drills, an earlier run
lost the circuit. What the circuit alone contributes has not been measured (bench/LOG.md).

Layout of the residual stream at the start: dimension 0 is the same for every token (a constant to build fixed
queries and keys from), the last ``CODE`` dimensions are empty and take up the code of the previous token, the
others hold the token itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Standard deviation of the embeddings, and the share of the final norm that keeps the first logits small.
EMBEDDING, FINAL_NORM = 0.08, 0.35
#: Size of the constant dimension relative to the others.
CONSTANT = 4.0
#: Rotary pairs that turn slowly enough to compare contents across a conversation; two dimensions each.
SLOW_PAIRS = 12
CODE = 2 * SLOW_PAIRS
#: Rotary pairs that turn fast enough to tell neighbours apart.
FAST_PAIRS = 12
PREVIOUS_SHARPNESS, MATCH_SHARPNESS, COPY_STRENGTH = 35.0, 14.0, 6.0


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    import torch

    basis: torch.Tensor = torch.linalg.qr(torch.randn(columns, rows)).Q
    return basis.T


def _slow_dimensions(head: int) -> list[int]:
    half = head // 2
    return [*range(half - SLOW_PAIRS, half), *range(head - SLOW_PAIRS, head)]


def _write_embeddings(model: Any) -> int:
    """Lay out the residual stream; returns the end of the part that holds the token."""
    weight = model.model.embed_tokens.weight
    end = weight.shape[1] - CODE
    weight.normal_(0.0, EMBEDDING)
    weight[:, 0] = CONSTANT * EMBEDDING
    weight[:, end:] = 0.0
    model.model.norm.weight.fill_(FINAL_NORM)
    return int(end)


def _write_previous_token_head(layer: Any, head: int, end: int, code: torch.Tensor, theta: float) -> None:
    """Head 0 looks one position back and stores the code of the token there."""
    import torch

    attention, half = layer.self_attn, head // 2
    pairs = torch.arange(FAST_PAIRS)
    turn = theta ** (-pairs / half)
    size = math.sqrt(PREVIOUS_SHARPNESS) / CONSTANT
    query, key = attention.q_proj.weight[:head], attention.k_proj.weight[:head]
    query.zero_()
    key.zero_()
    # The query is the key turned back by one position, so their product peaks where the distance is one.
    key[pairs, 0] = size
    query[pairs, 0] = size * torch.cos(-turn)
    query[pairs + half, 0] = size * torch.sin(-turn)
    value, output = attention.v_proj.weight[:head], attention.o_proj.weight[:, :head]
    value.zero_()
    output.zero_()
    value[:CODE, 1:end] = code
    output[end:, :CODE] = torch.eye(CODE) * EMBEDDING


def _write_match_head(layer: Any, head: int, group: int, end: int, code: torch.Tensor, values: torch.Tensor) -> None:
    """The first query head of a key-value group finds where the current token stood before, and copies what followed.

    ``values`` are the directions of the token part that this group carries over.
    """
    import torch

    attention, slow = layer.self_attn, torch.tensor(_slow_dimensions(head))
    per_group = attention.q_proj.weight.shape[0] // attention.k_proj.weight.shape[0]
    first = group * per_group * head
    query, key = attention.q_proj.weight[first : first + head], attention.k_proj.weight[group * head :][:head]
    value, output = attention.v_proj.weight[group * head :][:head], attention.o_proj.weight[:, first : first + head]
    for matrix in (query, key, value, output):
        matrix.zero_()
    size, balance = math.sqrt(MATCH_SHARPNESS), math.sqrt(EMBEDDING * COPY_STRENGTH)
    query[slow, 1:end] = size * code
    key[slow, end:] = size * torch.eye(CODE)
    value[:, 1:end] = balance * values
    output[1:end, :] = balance * values.T


def write_copying(model: Any) -> None:
    """Write the circuit into the first two layers of a freshly initialised ``LlamaForCausalLM``."""
    import torch

    config = model.config
    head, groups = config.head_dim, config.num_key_value_heads
    with torch.no_grad():
        end = _write_embeddings(model)
        code = _orthonormal(CODE, end - 1)
        values = _orthonormal(groups * head, end - 1)
        layers = model.model.layers
        _write_previous_token_head(layers[0], head, end, code, config.rope_parameters["rope_theta"])
        for group in range(groups):
            _write_match_head(layers[1], head, group, end, code, values[group * head : (group + 1) * head])

"""How likely a text, or the next token, is under a model: one reading in batches, nothing written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .context import Context

_AT_ONCE = 64  # tokens whose logits are held together


def mean_log_likelihood(context: Context, prompt: Sequence[int], text: Sequence[int], adapted_from: int) -> float:
    """The mean log-likelihood (nats) of the tokens of `text` behind `prompt`; the adapter acts from `adapted_from` on.

    The cache holds the prompt afterwards, and the text as far as it can be forgotten no more.
    """
    context.read(prompt, adapted_from)
    total, place = 0.0, -1
    for start in range(0, len(text), _AT_ONCE):
        chunk = text[start : start + _AT_ONCE]
        total += _log_likelihood(context.logits(place), chunk[0])
        (begin,) = context.extend([(0, chunk)])
        total += sum(_log_likelihood(context.logits(begin + i), token) for i, token in enumerate(chunk[1:]))
        place = -1
    context.roll_back(len(prompt))
    return total / max(1, len(text))


def _log_likelihood(logits: Any, token: int) -> float:
    """The logarithm of a token's share of the softmax, in double precision."""
    highest = float(logits.max())
    return float(logits[token]) - highest - math.log(float(_exp_sum(logits - highest)))


def _exp_sum(differences: Any) -> float:
    import numpy as np

    return float(np.exp(differences, dtype=np.float64).sum())


def shares_of(logits: Any, groups: Sequence[Sequence[int]]) -> list[float]:
    """The share of the softmax that each group of tokens has."""
    import numpy as np

    weights = np.exp(logits - logits.max(), dtype=np.float64)
    return [float(weights[list(group)].sum() / weights.sum()) for group in groups]

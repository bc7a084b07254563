"""Which objectives a request names: how many, how often each, and which never together in training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

#: Objectives that no request in the training data names together.
APART = (
    frozenset({"empathy", "honesty"}),
    frozenset({"clarity", "humor"}),
    frozenset({"brevity", "encouragement"}),
    frozenset({"politeness", "specificity"}),
)
#: Objectives with a harder task behind them are asked for more often.
_WEIGHT = {"specificity": 3.0, "clarity": 1.5, "encouragement": 1.5, "brevity": 1.5, "politeness": 1.2}


def is_apart(asked: frozenset[str]) -> bool:
    """Whether objectives are asked for together that training keeps apart."""
    return any(combination <= asked for combination in APART)


def some(rng: random.Random, names: Sequence[str], count: int) -> frozenset[str]:
    """Some of the names, weighted, each once."""
    ranked = sorted(names, key=lambda name: rng.random() ** (1 / _WEIGHT.get(name, 1.0)), reverse=True)
    return frozenset(ranked[:count])


def together(rng: random.Random, names: Sequence[str], count: int) -> frozenset[str]:
    """Some of the names that training may ask for together; fewer if so many of them cannot be."""
    while all(is_apart(frozenset(chosen)) for chosen in combinations(names, count)):
        count -= 1
    while is_apart(asked := some(rng, names, count)):
        pass
    return asked

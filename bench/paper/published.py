"""The figures of MetaAligner's paper (arXiv 2403.17141v3) that ours are put beside, each with its table."""

from __future__ import annotations

from statistics import mean

#: Table 2, MetaAligner-1.1B: gains in points on harmlessness, helpfulness, humor (HH-RLHF) and on instruction
#: following, honesty, truthfulness, helpfulness (UltraFeedback), all of a data set's objectives asked for at once.
TABLE_2 = {
    "LLaMA2-Chat-7B": ((10.0, 20.0, 14.75), (11.0, 15.0, 14.33, 9.0)),
    "LLaMA2-Chat-13B": ((10.75, 9.08, 13.25), (8.66, 15.34, 16.33, 7.67)),
    "LLaMA2-Chat-70B": ((6.58, 7.42, 22.58), (6.0, 12.67, 17.33, 16.33)),
    "Gemma-it-2B": ((8.5, 12.25, 12.33), (14.67, 14.67, 13.0, 5.33)),
    "Gemma-it-7B": ((4.0, 7.75, 23.17), (9.0, 10.0, 4.67, 14.0)),
    "Vicuna-7B": ((11.5, 10.83, 20.33), (11.33, 13.33, 12.33, 7.0)),
    "Vicuna-13B": ((7.42, 13.0, 19.17), (11.66, 14.34, 15.33, 10.0)),
    "Vicuna-33B": ((8.5, 2.59, 23.83), (8.0, 11.67, 6.33, 6.67)),
    "GPT-3.5-Turbo": ((1.42, 7.5, 17.84), (5.0, 5.0, 3.66, 1.0)),
    "Claude-3-Sonnet": ((-3.83, 1.58, 13.17), (4.67, 2.67, 2.67, 3.0)),
}
#: Which row and data set of Table 2 was measured on the very answers of a policy here (the paper's published samples).
SHARED = {
    "hh/llama2-chat-70B": ("LLaMA2-Chat-70B", 0),
    "hh/Claude-3": ("Claude-3-Sonnet", 0),
    "uf/Vicuna-13B": ("Vicuna-13B", 1),
    "uf/gpt-3.5-turbo": ("GPT-3.5-Turbo", 1),
}
#: Table 3, MetaAligner-7B on LLaMA2-Chat-7B: average win rate against the golden answers (HH-RLHF, UltraFeedback).
TABLE_3 = {"full": (80.83, 49.83), "no-equal": (77.3, 46.32), "no-warmup": (80.02, 49.32)}
#: Section 4.4, MetaAligner-7B on LLaMA2-Chat-70B: the mean gain of six unseen objectives, ten asked for.
UNSEEN_7B = 14.25
#: Table 3: A100 hours of MetaAligner-1.1B, both data sets. Tables 5 and section 4: its sets, two epochs of each.
HOURS = 120.48
EXAMPLES = 2 * (262_719 + 252_934 + 16_502 + 82_023)


def gain(policy: str) -> float:
    """The mean gain of a row of Table 2, over the objectives of both data sets."""
    return mean(value for gains in TABLE_2[policy] for value in gains)


def shared_gain(policy: str) -> float | None:
    """The published mean gain on the answers of one of our policies, None where the paper has none."""
    if policy not in SHARED:
        return None
    row, data = SHARED[policy]
    return mean(TABLE_2[row][data])


def per_objective() -> list[float]:
    """The mean gain of each of the seven objectives, over the ten policies."""
    columns = zip(*((*first, *second) for first, second in TABLE_2.values()), strict=True)
    return [mean(column) for column in columns]


def without(variant: str) -> list[float]:
    """What leaving a step out costs in Table 3, in points: on HH-RLHF, on UltraFeedback."""
    return [full - left for full, left in zip(TABLE_3["full"], TABLE_3[variant], strict=True)]


def seconds_per_example() -> float:
    """A100 seconds of one training example, by the paper's hours and sets."""
    return HOURS * 3600 / EXAMPLES

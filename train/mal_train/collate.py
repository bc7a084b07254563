"""Batches: planned ahead for a whole stage, of similar lengths, filled up to a number of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .encode import IGNORED, Encoded

if TYPE_CHECKING:
    import torch

_POOL = 64  # batches' worth of edits sorted by length together: similar lengths, yet different company each epoch


@dataclass(frozen=True, slots=True)
class Plan:
    """Every batch of a stage, in order, as indices of its edits; made before training, so a run can resume in it."""

    batches: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]  # per batch, padding not counted

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self.batches)


def plan(lengths: Sequence[Sequence[int]], epochs: float, batch_tokens: int, seed: int, multiple: int = 1) -> Plan:
    """Plan the batches of `epochs` passes over edits of these `lengths`.

    `lengths` holds one list per pool of edits; epoch e reads pool e modulo their number, and indices run through
    all pools. A batch's padded size is at most `batch_tokens`, but for a longer edit, which is alone in its
    batch. The number of batches is made a `multiple` (devices times accumulation) by repeating some from the start.
    """
    rng = random.Random(f"plan/{seed}")
    offsets = [sum(map(len, lengths[:i])) for i in range(len(lengths))]
    batches: list[tuple[int, ...]] = []
    whole, part = divmod(epochs, 1)
    for epoch in range(int(whole) + (part > 0)):
        pool = epoch % len(lengths)
        ordered = [offsets[pool] + i for i in range(len(lengths[pool]))]
        rng.shuffle(ordered)
        if epoch == int(whole):
            ordered = ordered[: max(1, round(part * len(ordered)))]
        batches += _pack(ordered, [n for group in lengths for n in group], batch_tokens, rng)
    if batches:
        batches += [batches[i % len(batches)] for i in range(-len(batches) % multiple)]
    flat = [n for group in lengths for n in group]
    return Plan(tuple(batches), tuple(sum(flat[i] for i in batch) for batch in batches))


def collate(edits: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Tensors of a batch, padded on the right: input_ids, attention_mask and labels, each (edits, longest).

    The prompt's labels are ignored: the loss is that of the edit and its end of turn (paper, section 3.2).
    """
    import torch

    longest = max(map(len, edits))
    ids = torch.full((len(edits), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(edits), longest), dtype=torch.long)
    labels = torch.full((len(edits), longest), IGNORED, dtype=torch.long)
    for i, edit in enumerate(edits):
        row = torch.as_tensor(edit.ids, dtype=torch.long)
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
        labels[i, edit.start : len(row)] = row[edit.start :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _pack(ordered: list[int], flat: Sequence[int], batch_tokens: int, rng: random.Random) -> list[tuple[int, ...]]:
    if not ordered:
        return []
    mean = sum(flat[i] for i in ordered) / len(ordered)
    pool = max(1, int(_POOL * batch_tokens / mean))
    batches: list[tuple[int, ...]] = []
    for begin in range(0, len(ordered), pool):
        batch: list[int] = []
        for i in sorted(ordered[begin : begin + pool], key=flat.__getitem__):
            if batch and flat[i] * (len(batch) + 1) > batch_tokens:
                batches.append(tuple(batch))
                batch = []
            batch.append(i)
        batches.append(tuple(batch))
    rng.shuffle(batches)
    return batches

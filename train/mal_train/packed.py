"""Batches of the activated kind: no padding, and what prompts have in common is read once.

Before the edit request an activated adapter does nothing, so what stands there is read as the base reads it, without
gradients. Edits of one row share their query, edits of one answer all of it, and every prompt its system turn: a batch
holds these beginnings as a tree, each stretch once, then the requests with their edits, one behind the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .collate import Plan
from .encode import Encoded
from .recipe import Recipe

if TYPE_CHECKING:
    import torch

_LEAST = 16  # tokens that two prompts must share for a stretch of their own: each costs an attention call per layer
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
BLOCK = 128  # rows of logits held at once
_OPEN = 8  # batches that are filled side by side


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens [start, end) of a list, behind those of `before`: stretches of the beginnings, the first one first."""

    start: int
    end: int
    before: tuple[tuple[int, int], ...]
    edits: tuple[int, ...] = ()  # of a stretch of requests: where each edit starts in it, counted from `start`

    @property
    def seen(self) -> int:
        """How many tokens stand before."""
        return sum(end - start for start, end in self.before)


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch: the beginnings, read without gradients, and the rest, read with them; ids and places in their text."""

    begin_ids: torch.Tensor
    begin_at: torch.Tensor
    begins: tuple[Stretch, ...]
    ids: torch.Tensor
    at: torch.Tensor
    rests: tuple[Stretch, ...]  # one for each beginning that edits end
    rows: torch.Tensor  # where in `ids` the next token is to be foretold
    labels: torch.Tensor  # and which it is

    def to(self, *args: Any, **options: Any) -> Packed:
        """The same on another device."""
        moved = {
            name: getattr(self, name).to(*args, **options)
            for name in ("begin_ids", "begin_at", "ids", "at", "rows", "labels")
        }
        return Packed(**moved, begins=self.begins, rests=self.rests)


def obstacle(base: Path, recipe: Recipe) -> str:
    """What keeps a model folder from being read in packed batches (llama_pass.py), in words; "" if nothing does."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "the base's config.json cannot be read"
    if config.get("model_type") not in _FAMILIES:
        return f"the architecture {config.get('model_type')} is not one of {', '.join(_FAMILIES)}"
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        return "the base has a sliding window"
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"the base's activation is {config['hidden_act']}"
    if recipe.lora.quantize or "quantization_config" in config:
        return "the base is quantized"
    if recipe.lora.dropout:
        return "lora.dropout is in use"
    if any(name in recipe.lora.targets for name in ("embed", "head")):
        return "the adapter changes embeddings or head"
    return ""


def pack(edits: Sequence[Encoded]) -> Packed:
    """The tensors of a batch; edits whose beginnings are equal come to stand side by side."""
    import torch

    leaves: dict[bytes, list[Encoded]] = {}
    for edit in edits:
        leaves.setdefault(edit.ids[: edit.request].tobytes(), []).append(edit)
    tree = _Tree()
    prefixes = sorted((members[0].ids[: members[0].request] for members in leaves.values()), key=lambda p: p.tolist())
    tree.grow(prefixes, 0, ())
    ids: list[np.ndarray] = []
    at: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    rests: list[Stretch] = []
    place = 0
    for key, members in leaves.items():
        start, starts = place, []
        for edit in members:
            starts.append(place - start)
            ids.append(edit.ids[edit.request :])
            at.append(np.arange(edit.request, len(edit)))
            rows.append(np.arange(edit.start - 1, len(edit) - 1) - edit.request + place)
            place += len(edit) - edit.request
        rests.append(Stretch(start, place, tree.paths[key], tuple(starts)))
    whole = np.concatenate(ids)
    predicting = np.concatenate(rows)
    tensor = torch.as_tensor
    return Packed(
        tensor(tree.ids(), dtype=torch.long),
        tensor(tree.at(), dtype=torch.long),
        tuple(tree.stretches),
        tensor(whole, dtype=torch.long),
        tensor(np.concatenate(at), dtype=torch.long),
        tuple(rests),
        tensor(predicting, dtype=torch.long),
        tensor(whole[predicting + 1], dtype=torch.long),
    )


def pack_plan(pools: Sequence[Sequence[Encoded]], epochs: float, batch_tokens: int, seed: int, multiple: int) -> Plan:
    """As collate.plan, for packed batches: tokens that edits share are counted once, and nothing is padded.

    Edits of one row fall into one batch, if it holds them. `tokens` are those of the edits, as a padded batch has them.
    """
    rng = random.Random(f"plan/{seed}")
    edits = [edit for pool in pools for edit in pool]
    offsets = [sum(map(len, pools[:i])) for i in range(len(pools))]
    batches: list[tuple[int, ...]] = []
    whole, part = divmod(epochs, 1)
    for epoch in range(int(whole) + (part > 0)):
        pool = epoch % len(pools)
        numbers = range(offsets[pool], offsets[pool] + len(pools[pool]))
        groups = list(_groups(numbers, edits, batch_tokens))
        rng.shuffle(groups)
        if epoch == int(whole):
            wanted, kept = max(1, round(part * len(numbers))), 0
            for i, (_, members) in enumerate(groups):
                kept += len(members)
                if kept >= wanted:
                    groups = groups[: i + 1]
                    break
        filled = list(_fill(groups, batch_tokens))
        rng.shuffle(filled)
        batches += filled
    if batches:
        batches += [batches[i % len(batches)] for i in range(-len(batches) % multiple)]
    return Plan(tuple(batches), tuple(sum(len(edits[i]) for i in batch) for batch in batches))


def _groups(numbers: Sequence[int], edits: Sequence[Encoded], most: int) -> Iterator[tuple[int, list[int]]]:
    """Edits of one row and what they cost in tokens, cut where they would be more than a batch."""
    rows: dict[int, list[int]] = {}
    for i in numbers:
        rows.setdefault(edits[i].row, []).append(i)
    for members in rows.values():
        members.sort(key=lambda i: edits[i].ids[: edits[i].request].tolist())
        cost, last = 0, None
        group: list[int] = []
        for i in members:
            prefix = edits[i].ids[: edits[i].request]
            more = len(edits[i]) - (0 if last is None else _shared(last, prefix))
            if group and cost + more > most:
                yield cost, group
                cost, group, more = 0, [], len(edits[i])
            cost, last = cost + more, prefix
            group.append(i)
        yield cost, group


def _fill(groups: Sequence[tuple[int, list[int]]], most: int) -> Iterator[tuple[int, ...]]:
    """Batches of groups, each put where it still fits."""
    bins: list[tuple[int, list[int]]] = []
    for cost, members in groups:
        for i, (used, held) in enumerate(bins):
            if used + cost <= most:
                bins[i] = (used + cost, held + members)
                break
        else:
            bins.append((cost, list(members)))
            if len(bins) > _OPEN:
                fullest = max(range(len(bins)), key=lambda i: bins[i][0])
                yield tuple(bins.pop(fullest)[1])
    yield from (tuple(held) for _, held in bins)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two lists begin with alike."""
    n = min(len(a), len(b))
    unlike = np.flatnonzero(a[:n] != b[:n])
    return int(unlike[0]) if len(unlike) else n


class _Tree:
    """The beginnings of a batch as stretches; `paths` by the bytes of a whole beginning."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.paths: dict[bytes, tuple[tuple[int, int], ...]] = {}
        self._ids: list[np.ndarray] = []
        self._at: list[np.ndarray] = []
        self._size = 0

    def ids(self) -> np.ndarray:
        return np.concatenate(self._ids) if self._ids else np.zeros(0, np.int64)

    def at(self) -> np.ndarray:
        return np.concatenate(self._at) if self._at else np.zeros(0, np.int64)

    def grow(self, prefixes: Sequence[np.ndarray], depth: int, before: tuple[tuple[int, int], ...]) -> None:
        """Add sorted, distinct prefixes that share their first `depth` tokens, which `before` holds."""
        first = 0
        while first < len(prefixes):
            last, common = first, len(prefixes[first])
            while last + 1 < len(prefixes):
                shared = _shared(prefixes[last], prefixes[last + 1])
                if min(common, shared) < depth + _LEAST:
                    break
                common, last = min(common, shared), last + 1
            path = self._stretch(prefixes[first][depth:common], depth, before)
            members = prefixes[first : last + 1]
            if len(members[0]) == common:  # sorted: the shortest is the first
                self.paths[members[0].tobytes()] = path
                members = members[1:]
            self.grow(members, common, path)
            first = last + 1

    def _stretch(self, ids: np.ndarray, depth: int, before: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if not len(ids):
            return before
        start, self._size = self._size, self._size + len(ids)
        self.stretches.append(Stretch(start, self._size, before))
        self._ids.append(ids)
        self._at.append(np.arange(depth, depth + len(ids)))
        return (*before, (start, self._size))

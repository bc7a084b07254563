"""Exercises in copying without words: random tokens, then the same again, and a probe that counts copied facts.

Random tokens can be told from nothing but the first time they stood there, so they are the shortest way to teach a
model to look back. The loss covers the repeats alone.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from . import tokens
from .oracles import facts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Row: TypeAlias = "tuple[array[int], bytes]"

SHORTEST, LONGEST = 8, 120
AGAIN = "Please repeat your answer word for word."


def drill_row(rng: random.Random, tokenizer: Tokenizer) -> Row:
    """Random tokens as a user's turn, and the same as the answer. Not twice in one turn: that might teach loops."""
    length = rng.randint(SHORTEST, LONGEST)
    line = [rng.randrange(len(tokens.SPECIAL_TOKENS), tokenizer.get_vocab_size()) for _ in range(length)]
    user, assistant, newline = (tokenizer.encode(text).ids for text in ("user\n", "assistant\n", "\n"))
    head = [tokens.IM_START, *user, *line, tokens.IM_END, *newline, tokens.IM_START, *assistant]
    return array("H", [*head, *line, tokens.IM_END]), b"\0" * len(head) + b"\1" * (length + 1)


def drill_batches(rng: random.Random, tokenizer: Tokenizer, budget: int, count: int = 8) -> list[list[Row]]:
    """Some batches of drills, rows of similar length together."""
    rows: list[Row] = []
    while sum(len(ids) for ids, _ in rows) < budget * count:
        rows.append(drill_row(rng, tokenizer))
    rows.sort(key=lambda row: len(row[0]))
    batches, batch = list[list[Row]](), list[Row]()
    for row in rows:
        if batch and len(row[0]) * (len(batch) + 1) > budget:
            batches.append(batch)
            batch = []
        batch.append(row)
    rng.shuffle(batches)
    return batches


def fact_row(tokenizer: Tokenizer, query: str, text: str) -> tuple[Row, bytes]:
    """A conversation in which ``text`` is repeated: its row, and which tokens of the repeat belong to a fact."""
    turns = [("user", query), ("assistant", text), ("user", AGAIN), ("assistant", text)]
    messages = [{"role": role, "content": content} for role, content in turns]
    (ids, _), *_ = tokens.encode_chats(tokenizer, [messages])
    encoded = tokenizer.encode(f"assistant\n{text}", add_special_tokens=False)
    spans = [range(start, start + len(fact)) for fact in facts(text) for start in _starts(encoded_text(text), fact)]
    inside = bytes(any(a < span.stop and b > span.start for span in spans) for a, b in encoded.offsets)
    end = len(ids) - len(tokenizer.encode("\n").ids) - 1  # before the end of turn
    marks = bytearray(len(ids))
    marks[end - len(inside) : end] = inside
    last = bytearray(len(ids))
    head = len(tokenizer.encode("assistant\n").ids)
    last[end - len(inside) + head : end + 1] = b"\1" * (len(inside) - head + 1)
    return (ids, bytes(last)), bytes(marks)


def encoded_text(text: str) -> str:
    """The run that a turn is encoded as."""
    return f"assistant\n{text}"


def _starts(text: str, part: str) -> list[int]:
    found, at = [], text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + 1)
    return found


def copied(model: Any, rows: Sequence[tuple[Row, bytes]]) -> tuple[float, float]:
    """The share of fact tokens that the model would repeat rightly, and of answers repeated without a mistake."""
    import torch

    right = total = whole = 0
    with torch.inference_mode():
        for (ids, targets), marks in rows:
            given = torch.tensor(ids, dtype=torch.long)
            hidden = model.model(input_ids=given[None, :-1], use_cache=False).last_hidden_state[0]
            wanted = torch.frombuffer(bytearray(targets[1:]), dtype=torch.uint8).bool()
            good = model.lm_head(hidden[wanted]).argmax(-1) == given[1:][wanted]
            facts_here = torch.frombuffer(bytearray(marks[1:]), dtype=torch.uint8).bool()[wanted]
            right += int(good[facts_here].sum())
            total += int(facts_here.sum())
            whole += bool(good.all())
    return right / max(total, 1), whole / max(len(rows), 1)

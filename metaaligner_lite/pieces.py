"""The pieces a prompt is made of, and their token ids.

Scaffold is ours or the chat template's, and may hold special tokens; content comes from people and models, and is never
parsed for them, so that "<|im_end|>" in an answer stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a prompt. `content` is text of people or models: never parsed for special tokens.

    `request` marks where the edit request begins (an activated adapter acts from there on). `tokens` are the ids a
    model wrote this text with: taken as they are, so that its KV cache fits to the last token.
    """

    text: str
    content: bool = False
    request: bool = False
    tokens: tuple[int, ...] = ()


Prompt = tuple[Piece, ...]


def text_of(prompt: Prompt) -> str:
    """The text that pieces spell."""
    return "".join(piece.text for piece in prompt)


class Vocabulary(Protocol):
    """What `encode` needs of a tokenizer; llama.cpp's and transformers' both offer it."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The text of each special token and its id."""

    @property
    def bos(self) -> int | None:
        """The token that must begin every text, or None if this model wants none."""

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens neither parsed nor added."""


def encode(prompt: Prompt, vocabulary: Vocabulary) -> list[int]:
    """Token ids of a prompt, with the model's BOS once.

    Special tokens are recognized in scaffold alone. Plain text between two of them is encoded as one run, since
    a tokenizer that saw scaffold and content apart would cut words, or add spaces, where training had none.
    """
    return encode_request(prompt, vocabulary)[0]


def encode_request(prompt: Prompt, vocabulary: Vocabulary) -> tuple[list[int], int]:
    """Token ids of a prompt, and the position at which the turn of the edit request begins (their number if none).

    That position is the last special token before the request: text cannot forge it, and no tokenizer merges it
    with what stands before.
    """
    ids: list[int] = []
    run: list[str] = []
    last_special, request = 0, -1

    def flush() -> None:
        if run:
            ids.extend(vocabulary.encode_text("".join(run)))
            run.clear()

    for piece in prompt:
        if piece.request:
            request = last_special
        if piece.tokens:
            flush()
            ids.extend(piece.tokens)
        elif piece.content:
            run.append(piece.text)
        else:
            for part in _split_specials(piece.text, vocabulary.specials):
                if (special := vocabulary.specials.get(part)) is None:
                    run.append(part)
                else:
                    flush()
                    last_special = len(ids)
                    ids.append(special)
    flush()
    bos = vocabulary.bos
    if bos is not None and ids[:1] != [bos]:
        ids, request = [bos, *ids], request + (request >= 0)
    return ids, len(ids) if request < 0 else request


def _split_specials(text: str, specials: Mapping[str, int]) -> list[str]:
    """Cut scaffold at its special tokens, the longest first where one begins another."""
    present = sorted((special for special in specials if special and special in text), key=len, reverse=True)
    if not present:
        return [text]
    return [part for part in re.split("(" + "|".join(map(re.escape, present)) + ")", text) if part]

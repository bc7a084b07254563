"""Edits to token ids: the prompt as the runtime spells it, then the target and the end of turn to be learnt.

Text of people and models, the target included, is never parsed for special tokens: "<|im_end|>" in an answer
is trained on as the characters it is.
"""

from __future__ import annotations

import math
import re
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from metaaligner_lite.errors import DataError, FileProblem
from metaaligner_lite.pieces import Piece, encode, encode_request
from metaaligner_lite.prompts import BRIEF, completion_end, edit_prompt
from metaaligner_lite.records import Account
from metaaligner_lite.templates import ChatTemplate

from .recipe import Data
from .reformulate import Edit

if TYPE_CHECKING:
    import numpy as np

    from metaaligner_lite.prompts import Message

_end = lru_cache(completion_end)

_MARK = re.compile(r"\n\n(?:Human|Assistant):")  # HH-RLHF's turns
_OPEN = re.compile(r"\n\nAssistant:\s*$")

# What a query is shortened by. Thai, Lao, Burmese, Khmer, Chinese and Japanese put no spaces between words: by a
# character; nor do links and encoded files: by a piece.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(rf"[{_UNSPACED}\U00020000-\U0003ffff]|[^\s{_UNSPACED}\U00020000-\U0003ffff]{{1,32}}")

IGNORED = -100  # the label of a token that is read, not learnt


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of prompt and target; `start` is the index of the first target token.

    `request` is the index at which the edit request's turn begins (layouts in turns); edits with one history and query
    have one number `row`.
    """

    ids: np.ndarray
    start: int
    request: int = 0
    row: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Tokens:
    """A Hugging Face tokenizer as `prompts.Vocabulary`, with what encoding an edit needs besides."""

    def __init__(
        self,
        backend: Any,
        specials: Mapping[str, int],
        bos: int | None,
        eos: str,
        pad: int,
        template: ChatTemplate | None,
    ) -> None:
        self.tokenizer = backend
        self.specials: Mapping[str, int] = specials
        self.bos: int | None = bos
        self.eos = eos
        self.pad = pad
        self.template = template
        # The same query, answer and request return in edit after edit.
        self._cached = lru_cache(maxsize=1 << 15)(
            lambda text: array("i", backend.encode(text, add_special_tokens=False).ids)
        )

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: special tokens neither parsed nor added."""
        return self._cached(text).tolist()


def load_tokens(base: Path) -> Tokens:
    """The tokenizer and chat template of a model folder. Raises FileProblem if they cannot be read."""
    from transformers import AutoTokenizer

    if not base.is_dir():
        raise FileProblem(f"{base} is no folder; expected one with a model's config.json, weights and tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FileProblem(
            f"{base} has no tokenizer that can be read ({_first_line(error)}); expected tokenizer.json or "
            "tokenizer.model beside config.json, as downloaded with the model"
        ) from error
    if tokenizer.eos_token_id is None:
        raise FileProblem(f"{base}: the tokenizer names no EOS token; expected eos_token in tokenizer_config.json")
    specials = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    begins = tokenizer("a")["input_ids"][:1]
    bos = tokenizer.bos_token_id if begins == [tokenizer.bos_token_id] else None
    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    template = ChatTemplate(source, tokenizer.bos_token or "", tokenizer.eos_token) if source else None
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Tokens(backend, specials, bos, tokenizer.eos_token, pad, template)


@dataclass(frozen=True, slots=True)
class Encoder:
    """How the edits of a run become token ids.

    With an `invocation`, its last occurrence must lie in the prompt: PEFT looks for that one, and without any it
    trains nothing, in silence. `strict` makes the first edit that cannot be learnt a DataError. `known` are the
    objectives that the aligner will know by heart, name -> description.
    """

    tokens: Tokens
    layout: str
    data: Data
    invocation: Sequence[int] | None = None
    strict: bool = False
    known: Mapping[str, str] = field(default_factory=dict)

    def named(self, edit: Edit) -> dict[str, str]:
        """The known objectives that this edit's request names by name alone: a share of them, drawn by hash."""
        if self.layout != BRIEF:
            return {}
        text = f"{edit.query}\0{edit.answer}\0{edit.target}".encode(errors="replace")
        share = self.data.named * 2**32
        return {
            o.name: o.description
            for o in edit.objectives
            if self.known.get(o.name) == o.description and zlib.crc32(o.name.encode(), zlib.crc32(text)) < share
        }


def encode_edits(edits: Iterable[Edit], encoder: Encoder, account: Account, enough: float = math.inf) -> list[Encoded]:
    """Encode edits up to `enough` tokens, counting in `account` those that cannot be learnt, and the shortened."""
    encoded: list[Encoded] = []
    total = 0
    for edit in edits:
        if total >= enough:
            break
        account.read += 1
        try:
            found, whole = _fitting(edit, encoder)
        except DataError as error:
            if encoder.strict:
                raise DataError(f"an edit of the answer to {edit.query.strip()[:60]!r}: {error}") from error
            account.refuse(str(error))
            continue
        account.shortened += not whole
        encoded.append(found)
        total += len(found)
    account.used += len(encoded)
    return encoded


def encode_edit(edit: Edit, tokens: Tokens, layout: str, known: Mapping[str, str] = MappingProxyType({})) -> Encoded:
    """One edit, whole, however long; `known` objectives are named in short.

    Raises UsageError or ModelError where the layout does not fit the model.
    """
    import numpy as np

    prompt = edit_prompt(
        layout,
        edit.query,
        edit.answer,
        edit.objectives,
        tokens.template,
        equal=edit.equal,
        history=edit.history,
        known=known,
    )
    target = (Piece(edit.target, content=True), *_end(layout, tokens.template, tokens.eos))
    read, request = encode_request(prompt, tokens)
    written = encode(target, tokens)[tokens.bos is not None :]  # it goes on where the prompt ends: no second BOS
    asked = "\0".join([*(turn.content for turn in edit.history), edit.query])
    return Encoded(
        np.array(read + written, dtype=np.int32), len(read), request, zlib.crc32(asked.encode(errors="replace"))
    )


def _fitting(edit: Edit, encoder: Encoder) -> tuple[Encoded, bool]:
    """The edit's token ids, and whether all of its query is in them. Raises DataError if it cannot be learnt."""
    most, invocation = encoder.data.max_length, encoder.invocation
    if not edit.target.strip():
        raise DataError("the better answer is empty")
    if edit.target == edit.answer and not (edit.equal or edit.stay):
        raise DataError("one answer twice with other ratings: nothing to improve")
    known = encoder.named(edit)
    found, whole = encode_edit(edit, encoder.tokens, encoder.layout, known), True
    if len(found) > most and encoder.data.overlong == "shorten":
        shorter = _shorten(edit, encoder.tokens, encoder.layout, most, known)
        found, whole = shorter or found, shorter is None
    if len(found) > most:
        raise DataError(f"longer than max_length = {most} tokens")
    if invocation and not 0 <= _last(invocation, found.ids) <= found.start - len(invocation):
        raise DataError("the invocation of the activated adapter is not the last of its kind in the prompt")
    return found, whole


def _last(part: Sequence[int], ids: np.ndarray) -> int:
    """Where `part` occurs last in `ids`, or -1."""
    import numpy as np

    if len(part) > len(ids):
        return -1
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(part))
    places = np.flatnonzero((windows == np.asarray(part)).all(axis=1))
    return int(places[-1]) if len(places) else -1


def _shorten(edit: Edit, tokens: Tokens, layout: str, most: int, known: Mapping[str, str]) -> Encoded | None:
    """The edit without its earliest turns, and with as many words gone from the front of its query as fit needs.

    None if none can fit. The front goes, since a dialogue's last turn is what is answered. The answer, the request and
    the edit stay whole.
    """
    while edit.history:
        edit = replace(edit, history=_later(edit.history))
        whole = encode_edit(edit, tokens, layout, known)
        if len(whole) <= most:
            return whole
    starts = [match.start() for match in _WORD.finditer(edit.query)]
    least = 2 if _OPEN.search(edit.query) else 1  # the mark of the turn to be written is no question

    def fitting(words: int) -> Encoded | None:
        if not least <= words < len(starts):
            return None
        found = encode_edit(replace(edit, query=_from(edit.query, starts[-words])), tokens, layout, known)
        return found if len(found) <= most else None

    # Outward from the end: a query of a million words must not be read whole again and again.
    best, kept, step = None, 0, least
    while found := fitting(kept + step):
        best, kept, step = found, kept + step, 2 * step
    while step := step // 2:
        if found := fitting(kept + step):
            best, kept = found, kept + step
    return best


def _later(history: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns without the first question and its answer; without any, if there is one question or none."""
    system = history[:1] if history[0].role == "system" else ()
    questions = [i for i, turn in enumerate(history) if turn.role == "user"]
    return (*system, *history[questions[1] :]) if len(questions) > 1 else ()


def _from(query: str, start: int) -> str:
    """The query from a place on, under the mark of the turn that the place is in, if it is a marked dialogue."""
    marks = [match for match in _MARK.finditer(query) if match.start() < start]
    if not marks:
        return query[start:]
    return f"{marks[-1].group()} {query[max(start, marks[-1].end()) :].lstrip()}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Sure copies: a sentence of the answer is repeated only if the aligner is sure enough that it should be.

An edit can leave a sentence as it is in one way, and change it in many: drop it, drop the next as well, end the text,
put a courtesy before it in a dozen wordings. The likeliest token pits the one against the best of the many alone, so
that greedy edits keep too much. So before each sentence of the answer, and where it ends, the chance of going on with
it is held against a bar: 0.5 weighs keeping against all changes together; a higher bar edits more, a lower one less.

A block of code of the answer's that an edit has copied FOLLOWED tokens into, or up to, is copied to its end: these
objectives are of prose, and code with a line less is broken. Everywhere else, and where the edit has left the answer,
the likeliest token is taken as ever. With or without drafts the same is chosen. Figures: bench/LOG.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..generation import Bar
from .draft import Drafter

if TYPE_CHECKING:
    from .context import Context
    from .model import Model

FOLLOWED = 8  # fewer may be alike by chance, or in another block of the answer
_FAINT = 0.04  # what is less likely than this is no change to be made
_ENDS = 16  # the end tokens among so many of the likeliest count
_SENTENCE_ENDS = re.compile(r"[.!?…][\"'”’)*\]]*\s*\Z|\n\s*\Z")
_BLOCK = re.compile(r"^[ \t]*```.*?^[ \t]*```", re.DOTALL | re.MULTILINE)
# Behind the mark of a list's item, a heading or a quotation nothing has ended yet.
_ITEM_BEGINS = re.compile(r"[ \t]*(?:[-*•#>|]+|\(?\w{1,3}[.)])[ \t]*")


class SureCopy:
    """Decides at the sentences of one answer whether an edit goes on with it; told every token that is written.

    Without a `bar` only blocks of code are looked after, if it `keeps_code`.
    """

    def __init__(self, bar: Bar | None, answer: Sequence[int], model: Model, keeps_code: bool = True) -> None:
        self._bar, self._answer, self._model = bar, answer, model
        self._place = Drafter(answer)  # follows the edit through the answer
        self._code = _code(answer, model) if keeps_code else frozenset[int]()
        self._later = {i: answer[i] for i in _sentences(answer, model)} if bar else {}
        self._written = False

    def observe(self, token: int) -> None:
        """Take the token that was written."""
        self._place.observe(token)
        self._written = True

    def decide(self, context: Context, place: int, likeliest: int, text: str) -> int:
        """The next token, given the logits at `place`, the likeliest by them and the text so far."""
        at = self._place.at
        if at in self._code and self._place.streak >= FOLLOWED:
            return self._answer[at]
        if not self._bar or (self._written and not (self._place.follows and _begins_sentence(text))):
            return likeliest
        chances = context.chances(place)
        ended = at == len(self._answer)
        copies = self._ends(chances) if ended else [self._answer[at]]
        bar = self._bar.edges if ended or not self._written else self._bar.between
        if copies and chances[copies].sum() >= bar:
            return int(max(copies, key=lambda token: float(chances[token])))
        if likeliest not in copies:
            return likeliest
        others = chances.copy()
        others[copies] = 0
        if self._written and not ended:
            # Between its sentences an answer is cut: what takes this one's place is a later one, or the end.
            later = {token for i, token in self._later.items() if i > at}
            cuts = [*self._ends(others), *sorted(later - set(copies))]
            if not cuts:
                return likeliest
            best = int(max(cuts, key=lambda token: float(others[token])))
        else:
            best = int(others.argmax())
        return best if others[best] >= _FAINT else likeliest

    def _ends(self, chances: Any) -> list[int]:
        most = min(_ENDS, len(chances))
        return [token for token in chances.argpartition(-most)[-most:].tolist() if self._model.ends(token)]


def _sentences(answer: Sequence[int], model: Model) -> list[int]:
    """The places of the tokens with which its sentences begin, but for the first."""
    found, text = [], ""
    for i, token in enumerate(answer):
        if text and _begins_sentence(text):
            found.append(i)
        text += model.piece(token).decode("utf-8", "replace")
    return found


def _code(answer: Sequence[int], model: Model) -> frozenset[int]:
    """The places of its tokens within blocks of code, closing fences included; of a block that does not end, none."""
    text, starts = "", []
    for token in answer:
        starts.append(len(text))
        text += model.piece(token).decode("utf-8", "replace")
    blocks = [(block.start() + 3, block.end()) for block in _BLOCK.finditer(text)]
    return frozenset(i for i, start in enumerate(starts) if any(begin <= start < end for begin, end in blocks))


def _begins_sentence(text: str) -> bool:
    """Whether what comes next begins a sentence or a paragraph, outside of code."""
    if not _SENTENCE_ENDS.search(text[-16:]):
        return False
    line = text[text.rfind("\n") + 1 :]
    return not (line.strip() and _ITEM_BEGINS.fullmatch(line)) and text.count("```") % 2 == 0

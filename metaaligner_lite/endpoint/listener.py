"""A text as it comes from a server, watched as an engine watches its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..generation import Generation, OnText
from ..loops import LoopGuard
from ..thoughts import ThoughtFilter
from .client import Reply


@dataclass(slots=True)
class Listener:
    """Watches a text as it comes from a server: thoughts are withheld, loops are cut, as an engine does.

    `most` is a limit in characters, 0 for none.
    """

    on_text: OnText | None = None
    most: int = 0
    ended: str = ""  # why the text is to end here: "loop", "length"
    _text: str = ""
    _shown: int = 0
    _guard: LoopGuard = field(default_factory=LoopGuard)
    _filter: ThoughtFilter = field(init=False)

    def __post_init__(self) -> None:
        self._filter = ThoughtFilter(self.on_text)

    def feed(self, part: str) -> None:
        """Take the next part."""
        if self.ended:
            return
        self._text += part
        if (keep := self._guard.add(part)) is not None:
            self._text, self.ended = self._text[:keep].rstrip(), "loop"
        elif self.most and len(self._text) > self.most:
            self._text, self.ended = self._text[: self.most], "length"
        self._show(len(self._text) if self.ended else self._guard.safe)

    def generation(self, reply: Reply) -> Generation:
        """What the server wrote, as a generation of its own; call it once, at the end."""
        finish = self.ended or reply.finish
        if finish == "end" and (keep := self._guard.doubled()) is not None:
            self._text, finish = self._text[:keep].rstrip(), "loop"
        self._show(len(self._text))
        self._filter.close()
        return Generation(self._text, (), finish, reply.counts)

    def _show(self, end: int) -> None:
        if end > self._shown:
            self._filter.feed(self._text[self._shown : end])
            self._shown = end

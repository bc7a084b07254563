"""What is sent back: results as OpenAI's JSON, whole or in chunks, with what the pair has to tell beside them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..generation import Generation
from .protocol import Order, Refused
from .worker import Result

KEEP_ALIVE = b": keep-alive\n\n"  # a comment: every client's parser of events passes over it
DONE = b"data: [DONE]\n\n"

_FINISH = {"length": "length", "stopped": "length"}


def whole(order: Order, result: Result) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    if order.chat:
        message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
        if order.show_both and result.correction:
            message["reasoning_content"] = result.answer.text
        elif result.answer.reasoning and not result.correction:
            message["reasoning_content"] = result.answer.reasoning
        choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None}
    else:
        choice = {"index": 0, "text": result.text, "logprobs": None}
    return {
        **_head(order, "chat.completion" if order.chat else "text_completion"),
        "choices": [{**choice, "finish_reason": finish_reason(result)}],
        "usage": usage(result),
        "metaaligner": about(result),
    }


def finish_reason(result: Result) -> str:
    """Why the text ends, in OpenAI's words."""
    return _FINISH.get(result.written.finish, "stop") if result.written else "stop"


def usage(result: Result) -> dict[str, Any]:
    """What the request cost, both stages together; what the policy wrote before the edit counts as reasoning."""
    edits = list(result.correction.edits) if result.correction else []
    answer = [result.answer.generation] if result.answer.generation else []
    both = [*answer, *edits]
    read, reused, written = (_sum(both, name) for name in ("read", "reused", "written"))
    drafted, accepted = _sum(both, "drafted"), _sum(both, "accepted")
    return {
        "prompt_tokens": read + reused,
        "completion_tokens": written,
        "total_tokens": read + reused + written,
        "prompt_tokens_details": {"cached_tokens": reused},
        "completion_tokens_details": {
            "reasoning_tokens": _sum(answer, "written") if edits else 0,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def about(result: Result) -> dict[str, Any]:
    """What the pair has to tell beside the text."""
    correction = result.correction
    edits = correction.edits if correction else ()
    answer = result.answer
    return {
        "objectives": [objective.name for objective in correction.objectives] if correction else [],
        "policy_text": answer.text,
        "aligned": bool(correction and correction.aligned),
        "failure": result.failure,
        "preference": correction.preference if correction else None,
        "stages": {
            "policy": _stage([answer.generation] if answer.generation else []),
            "edit": _stage(edits),
        },
        "notes": [*dict.fromkeys([*result.order.notes, *answer.notes])],
    }


def _stage(generations: Iterable[Generation]) -> dict[str, Any]:
    made = list(generations)
    counts = {name: _sum(made, name) for name in ("read", "reused", "written")}
    seconds = sum(one.counts.read_seconds + one.counts.write_seconds for one in made)
    return {**counts, "copied": _sum(made, "accepted"), "seconds": round(seconds, 4)}


def _sum(generations: Iterable[Generation], name: str) -> int:
    return sum(getattr(one.counts, name) for one in generations)


def _head(order: Order, kind: str, name: str = "", created: int = 0) -> dict[str, Any]:
    return {
        "id": name or f"{'chatcmpl' if order.chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": created or int(time.time()),
        "model": order.model,
    }


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


@dataclass(slots=True)
class Chunks:
    """The events of one stream."""

    order: Order
    _name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _created: int = field(default_factory=lambda: int(time.time()))
    _sent: list[str] = field(default_factory=list)
    _begun: bool = False

    def text(self, kind: str, text: str) -> Iterator[bytes]:
        """More of the policy's "answer" or of the "edit", if the client is to see it."""
        yield from self.begin()
        if kind == "edit" or not self.order.objectives:
            self._sent.append(text)
            yield self._chunk({"content": text} if self.order.chat else text)
        elif self.order.show_both and self.order.chat:
            yield self._chunk({"reasoning_content": text})

    def begin(self) -> Iterator[bytes]:
        """The first event."""
        if not self._begun and self.order.chat:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})

    def end(self, result: Result) -> Iterator[bytes]:
        """What is still to be told: the rest of the text, why it ends, what it cost."""
        yield from self.begin()
        sent, final = "".join(self._sent), result.text
        told = about(result)
        if final.startswith(sent):
            rest = final[len(sent) :]
        else:  # what was streamed stands there, and the answer in its place must not be lost
            rest = f"\n\n{final}" if not sent.strip().startswith(final) else ""
            told["text"] = final
        if rest:
            yield self._chunk({"content": rest} if self.order.chat else rest)
        yield self._chunk({} if self.order.chat else "", finish_reason(result), told)
        if self.order.include_usage:
            yield event({**self._head(), "choices": [], "usage": usage(result)})
        yield DONE

    def failed(self, error: Refused) -> Iterator[bytes]:
        """An error after the stream began."""
        yield event(error.body)
        yield DONE

    def _head(self) -> dict[str, Any]:
        name = f"{'chatcmpl' if self.order.chat else 'cmpl'}-{self._name}"
        kind = "chat.completion.chunk" if self.order.chat else "text_completion"
        return _head(self.order, kind, name, self._created)

    def _chunk(
        self, said: dict[str, str] | str, finish: str | None = None, about: dict[str, Any] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice["delta" if self.order.chat else "text"] = said
        more: dict[str, Any] = {"metaaligner": about} if about else {}
        if self.order.include_usage:
            more["usage"] = None
        return event({**self._head(), "choices": [choice], **more})

"""A conversation in which every answer is aligned, without a terminal: turns asked, taken back, asked again, kept.

It goes on from the aligned answers, as its reader saw them. A turn that is stopped, fails or brings no text leaves
everything as it was; nothing is left out of what the models read unless the user says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .align import Correction, align
from .aligners import Aligner, Edit, GgufAligner
from .best import BestOf
from .chats import read_chat
from .errors import DataError, FileProblem, UsageError
from .files import read_text, written_whole
from .gate import Gate
from .generation import OnText, Stop, sampled
from .objectives import Objective
from .policies import Answer, GgufPolicy, GivenAnswer, Policy
from .prompts import Message


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question ("" before an assistant who began), the policy's answer and the aligned one.

    `correction` tells what it cost, None for a turn that was loaded.
    """

    query: str
    weak: str
    text: str
    correction: Correction | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    """How many tokens of its context a conversation takes; `limit` 0: a server's, which does not tell."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """The part that is taken, 0 where the limit is not known."""
        return self.used / self.limit if self.limit else 0.0

    def __str__(self) -> str:
        if not self.limit:
            return f"context: {self.used:,} tokens"
        return f"context: {self.used:,} of {self.limit:,} tokens ({self.share:.0%})"


class Conversation:
    """The turns so far, and who answers and edits the next one.

    `keep_policy_turns` lets it go on from the policy's own answers. `pending` is the last question if nothing came of
    it, `forgotten` the number of exchanges that the models no longer read.
    """

    def __init__(
        self,
        policy: Policy,
        aligner: Aligner,
        objectives: Sequence[Objective],
        *,
        system: str = "",
        keep_policy_turns: bool = False,
        rounds: int = 1,
        gate: Gate | None = None,
    ) -> None:
        self.policy, self.aligner = policy, aligner
        self.objectives = tuple(objectives)
        self.system = system
        self.keep_policy_turns = keep_policy_turns
        self.rounds, self.gate = rounds, gate
        self.exchanges: list[Exchange] = []
        self.forgotten = 0
        self.pending = ""
        self._tries = 0  # how often the last question was asked again

    @property
    def history(self) -> tuple[Message, ...]:
        """The turns that the models read before the next question."""
        return self._turns(self.exchanges)

    def _turns(self, exchanges: Sequence[Exchange]) -> tuple[Message, ...]:
        turns = [Message("system", self.system)] if self.system else []
        for exchange in exchanges[self.forgotten :]:
            if exchange.query:
                turns.append(Message("user", exchange.query))
            turns.append(Message("assistant", exchange.weak if self.keep_policy_turns else exchange.text))
        return tuple(turns)

    def ask(
        self,
        query: str,
        on_answer: OnText | None = None,
        on_edit: OnText | None = None,
        stop: Stop | None = None,
    ) -> Correction:
        """The aligned answer to the next question; the turn counts once it is whole.

        If `stop` ended it or no text came, the question is `pending`. Raises as `align`: PromptTooLong if the
        conversation has become too long for the policy.
        """
        correction = self._aligned(self.policy, query, self.exchanges, on_answer, on_edit, stop)
        if _came(correction):
            self.exchanges.append(_exchange(correction))
            self._tries = 0
        return correction

    def again(
        self,
        query: str = "",
        on_answer: OnText | None = None,
        on_edit: OnText | None = None,
        stop: Stop | None = None,
    ) -> Correction:
        """The last question again, or `query` in its place; the turn stays as it was if nothing comes of it.

        Where only the objectives are others now, the same answer is edited toward them; else the policy samples with
        the next seed. Raises as `ask`, UsageError if there is none.
        """
        if self.pending:
            return self.ask(query or self.pending, on_answer, on_edit, stop)
        if not self.exchanges or not self.exchanges[-1].query:
            raise UsageError("nothing was asked yet")
        last, before = self.exchanges[-1], self.exchanges[:-1]
        policy, seeds = self.policy, 0
        if not query:
            query = last.query
            if self.edits_again:
                answered = last.correction.answer if last.correction else None
                policy = _Held(answered or GivenAnswer(last.weak).answer(query))
            else:
                seeds = self._tries + 1
        sampling = getattr(policy, "sampling", None)
        try:
            if sampling is not None and seeds:
                policy.sampling = sampled(sampling, seeds)  # type: ignore[attr-defined]
            correction = self._aligned(policy, query, before, on_answer, on_edit, stop)
        finally:
            self.pending = ""  # whatever came of it, the turn is there: the new one, or the old
            if sampling is not None:
                policy.sampling = sampling  # type: ignore[attr-defined]
        if _came(correction):
            self.exchanges[-1] = _exchange(correction)
            self.forgotten = min(self.forgotten, len(before))
            self._tries = seeds
        return correction

    @property
    def edits_again(self) -> bool:
        """Whether `again` edits the answer that is there: it was edited toward other objectives."""
        last = self.exchanges[-1] if self.exchanges else None
        return last is not None and last.correction is not None and last.correction.objectives != self.objectives

    def _aligned(
        self,
        policy: Policy,
        query: str,
        before: Sequence[Exchange],
        on_answer: OnText | None,
        on_edit: OnText | None,
        stop: Stop | None,
    ) -> Correction:
        if query.strip():
            self.pending = query
        correction = align(
            query,
            self.objectives,
            policy=policy,
            aligner=self.aligner,
            history=self._turns(before),
            rounds=self.rounds,
            on_answer=on_answer,
            on_edit=on_edit,
            stop=stop,
            gate=self.gate,
        )
        if _came(correction):
            self.pending = ""
        return correction

    def undo(self, count: int = 1) -> list[Exchange]:
        """Take back the last turns; a pending question goes first. Raises UsageError if there are not so many."""
        if self.pending and count == 1:
            self.pending = ""
            return []
        if not 0 < count <= len(self.exchanges):
            raise UsageError(f"there are {len(self.exchanges)} turns to take back, not {count}")
        taken, self.exchanges = self.exchanges[-count:], self.exchanges[:-count]
        self.forgotten = min(self.forgotten, len(self.exchanges))
        self.pending, self._tries = "", 0
        return taken

    def forget(self, count: int) -> None:
        """Leave so many more of the oldest turns out of what the models read; they stay in the conversation's file.

        Raises UsageError if there are not so many.
        """
        left = len(self.exchanges) - self.forgotten
        if not 0 < count <= left:
            raise UsageError(f"the models read {left} turns, so 1 to {left} can be left out, not {count}")
        self.forgotten += count

    def clear(self) -> None:
        """Begin anew, with the same system text and objectives."""
        self.exchanges, self.forgotten, self.pending, self._tries = [], 0, "", 0

    def gauge(self) -> Gauge:
        """How full the context is: of policy and aligner, the one that has less left."""
        history = self.history
        gauges = []
        if isinstance(self.policy, GgufPolicy):
            used = self.policy.tokens("", history) if history else 0
            gauges.append(Gauge(used, self.policy.engine.limit))
        if isinstance(self.aligner, GgufAligner | BestOf):
            used = self.aligner.tokens(Edit("", Answer(""), self.objectives, history)) if history else 0
            gauges.append(Gauge(used, self.aligner.engine.limit))
        if gauges:
            return max(gauges, key=lambda gauge: gauge.share)
        last = next((one.correction for one in reversed(self.exchanges) if one.correction), None)
        counts = last.answer.generation.counts if last and last.answer.generation else None
        return Gauge(counts.read + counts.reused + counts.written if counts else 0, 0)

    def to_json(self) -> dict[str, Any]:
        """Plain values: `messages` as other programs read them, the policy's answers beside those that were aligned."""
        messages: list[dict[str, str]] = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in self.exchanges:
            if exchange.query:
                messages.append({"role": "user", "content": exchange.query})
            messages.append({"role": "assistant", "content": exchange.text, _WEAK: exchange.weak})
        return {
            "messages": messages,
            "objectives": {objective.name: objective.description for objective in self.objectives},
            "keep_policy_turns": self.keep_policy_turns,
            "forgotten": self.forgotten,
        }

    def take_up(self, saved: Saved) -> None:
        """Go on with what was saved, in place of what is here; objectives stay where it names none."""
        self.clear()
        self.exchanges, self.system = list(saved.exchanges), saved.system
        self.forgotten = min(saved.forgotten, len(self.exchanges))
        self.pending = saved.pending
        if saved.objectives:
            self.objectives = saved.objectives
        if saved.keep_policy_turns is not None:
            self.keep_policy_turns = saved.keep_policy_turns


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds of a conversation; `notes` say what of it could not be kept as it was."""

    exchanges: tuple[Exchange, ...]
    system: str = ""
    objectives: tuple[Objective, ...] = ()
    keep_policy_turns: bool | None = None
    forgotten: int = 0
    pending: str = ""
    notes: tuple[str, ...] = ()


def load(path: Path) -> Saved:
    """The conversation in a file of ours, or in any form that chats.py reads.

    Raises FileProblem if it is none, DataError for what is wrong inside.
    """
    text = read_text(path, "the conversation")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"cannot read the conversation {path}: {error}; expected JSON") from error
    ours: Mapping[str, Any] = {}
    if isinstance(raw, dict) and isinstance(raw.get("messages"), list):
        ours = {key: raw.pop(key) for key in ("objectives", "keep_policy_turns", "forgotten") if key in raw}
    chat = read_chat(raw, str(path))
    weak = [turn.get(_WEAK) if isinstance(turn, dict) else None for turn in raw["messages"]] if ours else []
    if len(weak) != len(chat.turns):  # turns were joined, or left out
        weak = [None] * len(chat.turns)
    system, query, exchanges = "", "", list[Exchange]()
    for number, (turn, own) in enumerate(zip(chat.turns, weak, strict=True)):
        if turn.role == "system":
            if number:
                raise DataError(f"{path}: a system text in the middle; a conversation here has one, at its beginning")
            system = turn.content
        elif turn.role == "user":
            query = turn.content
        else:
            exchanges.append(Exchange(query, own if isinstance(own, str) else turn.content, turn.content))
            query = ""
    named, forgotten = ours.get("objectives"), ours.get("forgotten")
    keep = ours.get("keep_policy_turns")
    return Saved(
        tuple(exchanges),
        system,
        tuple(Objective(str(name), str(told)) for name, told in named.items()) if isinstance(named, dict) else (),
        keep if isinstance(keep, bool) else None,
        forgotten if isinstance(forgotten, int) and forgotten > 0 else 0,
        query,
        chat.notes,
    )


def save(conversation: Conversation, path: Path, *, replace: bool = False) -> None:
    """Write a conversation; other users cannot read it. Raises FileProblem if it cannot be, or is there already."""
    if path.exists() and not replace:
        raise FileProblem(f"{path} is there already; name another file, or say --force before its name")
    _write(path, _bytes(conversation))


class Kept:
    """The file of a conversation in a folder of its own, written whole after each turn.

    If another program goes on with the same file, this one goes on in a new one: neither loses a turn.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self.folder = folder
        self._path = path
        self._digest = _digest(path) if path else b""

    @property
    def path(self) -> Path | None:
        """The file, None before the first turn."""
        return self._path

    def save(self, conversation: Conversation) -> None:
        """Write it, if there is anything to keep. Raises FileProblem if it cannot be."""
        if not conversation.exchanges and self._path is None:
            return
        if self._path is None or _digest(self._path) != self._digest:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise FileProblem(f"cannot keep the conversation in {self.folder}: {error.strerror}") from error
            self._path = _fresh(self.folder)
        data = _bytes(conversation)
        _write(self._path, data)
        self._digest = hashlib.sha256(data).digest()


def last_kept(folder: Path) -> Path | None:
    """The conversation that was kept last, None if there is none."""
    found = [(path.stat().st_mtime_ns, path) for path in folder.glob("*.json")]
    return max(found)[1] if found else None


_WEAK = "weak_answer"


def _bytes(conversation: Conversation) -> bytes:
    return (json.dumps(conversation.to_json(), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _write(path: Path, data: bytes) -> None:
    try:
        with written_whole(path, private=True) as file:
            file.write(data)
    except OSError as error:
        raise FileProblem(f"cannot write the conversation to {path}: {error.strerror or error}") from error


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _fresh(folder: Path) -> Path:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}"
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    return path


def _came(correction: Correction) -> bool:
    """Whether a turn is whole: it was not stopped, and there is a text."""
    stages = (correction.answer.generation, correction.edit)
    stopped = any(stage is not None and stage.finish == "stopped" for stage in stages)
    return bool(correction.text.strip()) and not stopped


def _exchange(correction: Correction) -> Exchange:
    return Exchange(correction.query, correction.answer.text, correction.text, correction)


@dataclass(frozen=True, slots=True)
class _Held:
    """A policy that has answered already; the cache that holds its answer serves the next edit, too."""

    held: Answer

    def answer(
        self, query: str, on_text: OnText | None = None, history: Sequence[Message] = (), *, stop: Stop | None = None
    ) -> Answer:
        if on_text:
            on_text(self.held.text)
        return self.held

"""Who judges: a local model, a server, reward models, rules, the aligner's own likelihood; all answer one question.

A judge that goes by position is asked in both orders (protocol.py); the others score both texts, and are asked once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..errors import MalError, PromptTooLong, UsageError
from ..generation import GREEDY
from ..gguf_file import sampled_digest
from ..objectives import Objective
from ..pieces import Prompt
from ..policies import Answer
from ..prompts import Message, chat_prompt, opens_thoughts
from ..templates import PLAIN_DIALOGUE
from .measures import MEASURES
from .prompts import JUDGE_PROMPTS, LABELS, MARKED, judge_prompt, last_marked
from .report import Judge as Told

if TYPE_CHECKING:
    from ..aligners import GgufAligner
    from ..endpoint import Endpoint
    from ..llama.engine import Engine

_BESIDE = 4  # requests that a server gets at once
_GIVES_UP = 8  # failures in a row after which a server is asked no more
_MARGIN = 1e-6  # nats per token; smaller differences of a likelihood are rounding


@dataclass(frozen=True, slots=True)
class Question:
    """Which of two texts is better. `query` is what they answer, `answer` the weak answer that edits began from."""

    query: str
    answer: str
    objective: Objective
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge said: "first", "second", "tie", "unparsed" or "failed", and what it was read from.

    `on_answers` is the probability that a model gave to its answer tokens, None where nothing tells it.
    """

    verdict: str
    raw: str = ""
    error: str = ""
    seconds: float = 0.0
    tokens: int = 0
    on_answers: float | None = None


OnSaid = Callable[[int, Said], None]


class Judge(Protocol):
    """Anything that tells which of two texts is better. `told` is how a report names it.

    `positional`: the order may matter, so both are asked. `keeps`: a verdict costs enough to be kept for later runs.
    """

    told: Told
    positional: bool
    keeps: bool

    def takes(self, query: str, objective: Objective) -> bool:
        """Whether it can judge this objective of an answer to this query."""

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Answer questions, in any order; `on_said` gets the number of each, and what was said, as it comes.

        What cannot be asked is "failed", and stops nothing.
        """


def key_of(judge: Judge, question: Question) -> bytes:
    """What a verdict follows from: the judge with its prompt, the query, both texts and their order, the objective.

    A judge that sees the answer that edits began from is another matter for another answer.
    """
    told = judge.told
    parts = [told.fingerprint, told.prompt, told.template, told.reads, question.query]
    parts += [question.objective.name, question.objective.worded(""), question.first, question.second]
    if told.kind == "likelihood":
        parts.append(question.answer)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


class GgufJudge:
    """A local model. Its verdict is the likeliest of its answer tokens 1, 2 and 0, nothing is written.

    With `tokens` it writes so many freely, thoughts included, and its last mark counts, as a server's does.
    """

    positional = keeps = True

    def __init__(self, engine: Engine, prompt: str = "paper", *, tokens: int = 0) -> None:
        header = engine.model.header
        self._engine, self._prompt, self._tokens = engine, prompt, tokens
        self._template = engine.model.template or PLAIN_DIALOGUE
        template = JUDGE_PROMPTS.get(prompt, "") + (MARKED if tokens else "")
        reads = f"the last mark VERDICT: of at most {tokens} tokens" if tokens else _LIKELIEST
        print_ = f"{header.path.name} {sampled_digest(header).hex()[:16]}"
        self.told = Told(header.path.name, "gguf", print_, prompt, template, reads, None)
        self._groups: list[list[int]] = []
        if not tokens:
            self._groups = [_tokens_that_say(engine, label) for label in LABELS]
            if missing := [label for label, ids in zip(LABELS, self._groups, strict=True) if not ids]:
                raise UsageError(
                    f"{header.path.name} has no token that says {missing[0]} alone; let it write with `judge_tokens`"
                )

    def takes(self, query: str, objective: Objective) -> bool:
        """Any objective has a sentence."""
        return True

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Answer questions; those that begin alike follow each other, so that the beginning is read once."""
        for i in sorted(range(len(questions)), key=lambda i: self._beginning(questions[i])):
            began = time.perf_counter()
            try:
                prompt = self._asked(questions[i])
                said = self._written(prompt) if self._tokens else self._read(prompt)
            except PromptTooLong as error:
                said = Said("failed", error=str(error))
            on_said(i, _timed(said, began))

    def _beginning(self, question: Question) -> tuple[str, ...]:
        return question.query, question.first, question.second, question.objective.name

    def _asked(self, question: Question) -> Prompt:
        text = judge_prompt(self._prompt, question.query, question.first, question.second, question.objective)
        return chat_prompt([Message("user", text + (MARKED if self._tokens else ""))], self._template)

    def _read(self, prompt: Prompt) -> Said:
        shares = self._engine.shares(prompt, self._groups)
        ranked = sorted(zip(shares, LABELS, strict=True), reverse=True)
        raw = ", ".join(f"{label}: {share:.4f}" for share, label in zip(shares, LABELS, strict=True))
        clear = ranked[0][0] > ranked[1][0]  # false of numbers that are none, too
        verdict = LABELS[ranked[0][1]] if clear else "unparsed"
        return Said(verdict, raw, on_answers=sum(shares) if clear else None)

    def _written(self, prompt: Prompt) -> Said:
        (text,) = self._engine.run([prompt], max_tokens=self._tokens, sampling=GREEDY)
        verdict = _verdict(text.text, opens_thoughts(prompt), cut=text.finish == "length")
        return Said(verdict, text.text, tokens=text.counts.written)


_LIKELIEST = "the likeliest of its answer tokens 1, 2 and 0"


class EndpointJudge:
    """A model on a server, which writes freely; its last mark counts."""

    positional = keeps = True

    def __init__(self, endpoint: Endpoint, prompt: str = "paper", *, tokens: int = 1024) -> None:
        self._endpoint, self._prompt, self._tokens = endpoint, prompt, tokens
        name = endpoint.model
        template = JUDGE_PROMPTS.get(prompt, "") + MARKED
        print_ = f"{name} at {endpoint.server.name}"
        reads = f"the last mark VERDICT: of at most {tokens} tokens"
        self.told = Told(name, "server", print_, prompt, template, reads, None)

    def takes(self, query: str, objective: Objective) -> bool:
        """Any objective has a sentence."""
        return True

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Answer questions, a few at once. A server that fails again and again is asked no more."""
        in_a_row, last = 0, ""
        waiting: dict[Future[Said], int] = {}
        with ThreadPoolExecutor(max_workers=_BESIDE) as workers:
            try:
                for i in range(len(questions) + 1):
                    while waiting and (len(waiting) == _BESIDE or i == len(questions)):
                        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                        for future in done:
                            said = future.result()
                            in_a_row = in_a_row + 1 if said.verdict == "failed" else 0
                            last = said.error or last
                            on_said(waiting.pop(future), said)
                    if i == len(questions):
                        return
                    if in_a_row >= _GIVES_UP:
                        on_said(i, Said("failed", error=f"not asked, after {_GIVES_UP} failures in a row: {last}"))
                    else:
                        waiting[workers.submit(self._one, questions[i])] = i
            finally:
                for future in waiting:
                    future.cancel()

    def _one(self, question: Question) -> Said:
        from ..endpoint import settings_of

        began = time.perf_counter()
        text = judge_prompt(self._prompt, question.query, question.first, question.second, question.objective) + MARKED
        try:
            reply = self._endpoint.chat([Message("user", text)], settings_of(GREEDY, frozenset(), self._tokens))
        except MalError as error:
            return _timed(Said("failed", error=str(error)), began)
        verdict = _verdict(reply.text, cut=reply.finish == "length")
        return _timed(Said(verdict, reply.text, tokens=reply.written_tokens), began)


class RulesJudge:
    """The rules of measures.py, those of bench/real_policies.py; a text wins that meets a rule the other does not."""

    positional = keeps = False

    def __init__(self) -> None:
        reads = "a rule reads both texts; whether the meaning was kept no rule tells"
        self.told = Told("rules", "rules", "rules of evaluation/measures.py", "", "", reads, tuple(MEASURES))

    def takes(self, query: str, objective: Objective) -> bool:
        """An objective that has a rule, for a query to which it applies."""
        measure = MEASURES.get(objective.name)
        return measure is not None and measure.applies(query)

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Read both texts of each."""
        for i, question in enumerate(questions):
            found = MEASURES[question.objective.name].change(question.query, question.second, question.first)
            on_said(i, Said(_compared(found, 0)))


class ScorersJudge:
    """Scores that need no model: the higher one wins. `scores` has a function of (query, text) for each objective."""

    positional = keeps = False

    def __init__(self, name: str, scores: Mapping[str, Callable[[str, str], float]]) -> None:
        self._scores = scores
        self.told = Told(name, "rules", name, "", "", "the higher score, in whole steps", tuple(scores))

    def takes(self, query: str, objective: Objective) -> bool:
        """An objective that has a score."""
        return objective.name in self._scores

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Score both texts of each."""
        for i, question in enumerate(questions):
            score = self._scores[question.objective.name]
            first, second = (score(question.query, text) for text in (question.first, question.second))
            on_said(i, Said(_compared(first, second), f"{first:g}, {second:g}"))


class RewardJudge:
    """A reward model of one objective: the higher score wins. `score` reads (query, text) pairs.

    Scores are rounded to `decimals`, as the reference code does (1), so that nearly equal texts tie.
    """

    positional = keeps = False  # the scores have a store of their own

    def __init__(
        self,
        name: str,
        objective: str,
        fingerprint: str,
        score: Callable[[Sequence[tuple[str, str]]], Sequence[float]],
        decimals: int = 1,
    ) -> None:
        self._score, self._decimals = score, decimals
        reads = f"the higher score of a reward model, rounded to {decimals} decimals"
        self.told = Told(name, "reward", fingerprint, "", "", reads, (objective,))

    def takes(self, query: str, objective: Objective) -> bool:
        """Its own objective."""
        return self.told.objectives == (objective.name,)

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Score the texts, each once, in batches."""
        pairs = list(dict.fromkeys((q.query, text) for q in questions for text in (q.first, q.second)))
        began = time.perf_counter()
        try:
            scores = dict(zip(pairs, self._score(pairs), strict=True))
        except MalError as error:
            for i in range(len(questions)):
                on_said(i, Said("failed", error=str(error)))
            return
        seconds = (time.perf_counter() - began) / max(1, len(questions))
        for i, question in enumerate(questions):
            first, second = (
                round(scores[question.query, text], self._decimals) for text in (question.first, question.second)
            )
            on_said(i, Said(_compared(first, second), f"{first}, {second}", seconds=seconds))


class LikelihoodJudge:
    """The aligner itself: the text wins that it holds likelier, as an edit of the weak answer toward the objective.

    It is the model under test; what it says shows what it was trained for, not what is good.
    """

    positional, keeps = False, True

    def __init__(self, aligner: GgufAligner) -> None:
        self._aligner = aligner
        headers = [aligner.engine.model.header]
        headers += [aligner.engine.adapter.header] if aligner.engine.adapter else []
        print_ = " + ".join(f"{header.path.name} {sampled_digest(header).hex()[:16]}" for header in headers)
        reads = f"the likelier edit of the answer, in the layout {aligner.layout}"
        self.told = Told(f"likelihood of {headers[-1].path.stem}", "likelihood", print_, "", "", reads, None)

    def takes(self, query: str, objective: Objective) -> bool:
        """Any objective, of an answer that is not empty."""
        return True

    def ask(self, questions: Sequence[Question], on_said: OnSaid) -> None:
        """Read each text behind the edit request; a text that stands in several questions is read once."""
        known: dict[tuple[str, str, str, str], float] = {}
        order = sorted(range(len(questions)), key=lambda i: (questions[i].query, questions[i].objective.name))
        for i in order:
            question, began = questions[i], time.perf_counter()
            texts = (question.first, question.second)
            keys = [(question.query, question.answer, question.objective.worded(""), text) for text in texts]
            missing = [key for key in dict.fromkeys(keys) if key not in known]
            try:
                if missing:
                    found = self._aligner.likelihoods(
                        question.query, Answer(question.answer), [question.objective], [key[3] for key in missing]
                    )
                    known |= zip(missing, found, strict=True)
                first, second = (known[key] for key in keys)
                verdict = "tie" if abs(first - second) < _MARGIN else _compared(first, second)
                said = Said(verdict, f"{first:.4f}, {second:.4f}")
            except PromptTooLong as error:
                said = Said("failed", error=str(error))
            on_said(i, _timed(said, began))


def _compared(first: float, second: float) -> str:
    return "first" if first > second else "second" if second > first else "tie" if first == second else "unparsed"


def _verdict(text: str, opened: str = "", *, cut: bool = False) -> str:
    """The verdict of a text that a judge wrote; of one that was cut off at its limit, none."""
    label = None if cut else last_marked(text, LABELS, opened)
    return LABELS[label] if label else "unparsed"


def _timed(said: Said, began: float) -> Said:
    return replace(said, seconds=round(time.perf_counter() - began, 4))


def _tokens_that_say(engine: Engine, label: str) -> list[int]:
    """The tokens that spell a label and nothing else, with or without white space around it."""
    wanted = label.encode()
    return [token for token in range(engine.model.n_vocab) if engine.model.piece(token).strip() == wanted]

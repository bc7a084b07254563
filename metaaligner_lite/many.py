"""Many cases aligned beside each other: in shared batches of an engine, or on threads that ask servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from .align import Correction, after_round, align, judged, nothing_to_edit
from .aligners import Aligner, Edit, GgufAligner, check_gate
from .errors import MalError, PromptTooLong
from .gate import Gate
from .generation import Generation, OnText, Stop
from .loops import tidy
from .objectives import Objective
from .policies import Answer, GgufPolicy, GivenAnswer, Policy
from .prompts import Message


@dataclass(frozen=True, slots=True)
class Case:
    """A query to be answered, or whose `answer` is there, and the objectives to edit the answer toward."""

    query: str
    objectives: tuple[Objective, ...]
    history: tuple[Message, ...] = ()
    answer: str | None = None


Settled = Callable[[int, Correction | MalError], None]


def align_many(
    cases: Sequence[Case],
    *,
    policy: Policy,
    aligner: Aligner,
    on_done: Settled,
    rounds: int = 1,
    in_flight: int = 1,
    concurrency: int = 1,
    gate: Gate | None = None,
) -> None:
    """Align cases that know nothing of each other; `on_done` gets the number of each, and what came of it, as it ends.

    With GGUF models up to `in_flight` texts are written side by side: first the answers that are not there yet, then
    the edits; of servers `concurrency` cases are asked at once. A case that cannot be answered or edited at all ends as
    its error. Raises what stops them all, a ModelError.
    """
    check_gate(aligner, gate)
    if not isinstance(aligner, GgufAligner) or not isinstance(policy, GgufPolicy | GivenAnswer):
        _at_once(cases, policy, aligner, on_done, rounds, concurrency, gate)
        return
    corrections: dict[int, Correction] = {}
    editing: dict[int, Answer] = {}  # what the next round edits, by case
    for i, answer in enumerate(_answers(cases, policy, in_flight)):
        if isinstance(answer, MalError):
            on_done(i, answer)
            continue
        case = cases[i]
        correction = Correction(case.query, case.objectives, answer, tidy(answer.text), aligner.layout)
        if missing := nothing_to_edit(answer):
            on_done(i, replace(correction, failure=missing))
        else:
            corrections[i], editing[i] = correction, answer

    def settle(i: int, after: Correction, last: bool) -> None:
        before, corrections[i] = corrections[i], after
        if last or after.failure or after.text == before.text:
            del editing[i]
            on_done(i, corrections.pop(i))
        else:
            editing[i] = Answer(after.text)

    for left in range(rounds, 0, -1):
        if not (numbers := list(editing)):
            break
        gated: dict[int, Correction] = {}  # to be judged once the engine writes no more

        def ended(
            place: int,
            edit: Generation | MalError,
            numbers: list[int] = numbers,
            gated: dict[int, Correction] = gated,
            last: bool = left == 1,
        ) -> None:
            i = numbers[place]
            after = after_round(corrections[i], edit)
            if gate and not after.failure and after.text != corrections[i].text:
                gated[i] = after
            else:
                settle(i, after, last)

        edits = [Edit(cases[i].query, editing[i], cases[i].objectives, cases[i].history) for i in numbers]
        aligner.edit_all(edits, in_flight=in_flight, on_done=ended, strict=False)
        for i, after in gated.items():
            assert gate
            try:
                after = judged(gate, after, corrections[i], editing[i], aligner, cases[i].history)
            except PromptTooLong as error:
                after = replace(corrections[i], edits=after.edits, failure=str(error), error=error)
            settle(i, after, left == 1)


def _answers(cases: Sequence[Case], policy: GgufPolicy | GivenAnswer, in_flight: int) -> list[Answer | MalError]:
    """The weak answers, those that are there and those that the policy writes."""
    missing = [(case.query, case.history) for case in cases if case.answer is None]
    if not missing:
        written: list[Answer | MalError] = []
    elif isinstance(policy, GgufPolicy):
        written = policy.answer_all(missing, in_flight=in_flight, strict=False)
    else:
        written = [policy.answer(query, history=history) for query, history in missing]
    rest = iter(written)
    return [next(rest) if case.answer is None else GivenAnswer(case.answer).answer(case.query) for case in cases]


def _at_once(
    cases: Sequence[Case],
    policy: Policy,
    aligner: Aligner,
    on_done: Settled,
    rounds: int,
    concurrency: int,
    gate: Gate | None,
) -> None:
    """Align cases on so many threads; `on_done` is called on this one."""
    if concurrency == 1:
        for i, case in enumerate(cases):
            on_done(i, _alone(case, policy, aligner, rounds, gate))
        return
    ended = threading.Event()
    # With others to edit meanwhile, an aligner here does not read ahead: they would drive it out of the cache.
    asked = _Near(policy)
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="case") as workers:
        pending = {
            workers.submit(_alone, case, asked, aligner, rounds, gate, ended.is_set): i for i, case in enumerate(cases)
        }
        try:
            for one in as_completed(list(pending)):
                on_done(pending.pop(one), one.result())
        except BaseException:  # an interrupt, or a full disk: no answer is waited for
            ended.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True, slots=True)
class _Near:
    """A policy as one that nobody reads ahead of."""

    policy: Policy

    def answer(
        self, query: str, on_text: OnText | None = None, history: Sequence[Message] = (), *, stop: Stop | None = None
    ) -> Answer:
        options: dict[str, Any] = {"history": history} if history else {}
        return self.policy.answer(query, on_text, **options | ({"stop": stop} if stop else {}))


def _alone(
    case: Case, policy: Policy, aligner: Aligner, rounds: int, gate: Gate | None, stop: Stop | None = None
) -> Correction | MalError:
    try:
        return align(
            case.query,
            case.objectives,
            policy=policy if case.answer is None else GivenAnswer(case.answer),
            aligner=aligner,
            history=case.history,
            rounds=rounds,
            gate=gate,
            stop=stop,
        )
    except MalError as error:
        return error

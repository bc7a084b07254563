"""align(): weak answer -> prompt -> aligner -> Correction. Read this first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from .aligners import Aligner, Edit, GgufAligner
from .errors import EndpointError, MalError, PromptTooLong, UsageError
from .gate import Gate
from .generation import Generation, OnText, Stop
from .loops import tidy
from .objectives import Objective, resolve
from .policies import Answer, GgufPolicy, GivenAnswer, Policy
from .prompts import Message


@dataclass(frozen=True, slots=True)
class Correction:
    """An aligned answer and what it cost. Where a round failed, `text` is what it was before: at first the weak answer.

    `aligned` says whether `text` is the aligner's; it is not where the gate kept what was there. `failure` says why a
    round failed ("" if none did); `edits` are the aligner's generations, one per round that began. A weak answer that
    stays loses its own loop or invented turn.
    """

    query: str
    objectives: tuple[Objective, ...]
    answer: Answer
    text: str
    layout: str
    edits: tuple[Generation, ...] = ()
    aligned: bool = False
    failure: str = ""
    error: MalError | None = None  # what the last round failed by, where the failure is an error
    preference: float | None = None  # of the last edit over what it edited, in nats per token, where a gate asked

    @property
    def edit(self) -> Generation | None:
        """The last round's generation, None if none began."""
        return self.edits[-1] if self.edits else None


def align(
    query: str,
    objectives: str | Iterable[str | Objective],
    *,
    policy: Policy,
    aligner: Aligner,
    history: Sequence[Message] = (),
    rounds: int = 1,
    on_answer: OnText | None = None,
    on_edit: OnText | None = None,
    stop: Stop | None = None,
    gate: Gate | None = None,
) -> Correction:
    """Let `policy` answer `query`, then let `aligner` edit that answer toward `objectives` (paper section 3.3).

    `history` holds the turns before the query, as their reader saw them. With several `rounds` the edit is edited
    again, until a round changes nothing. The texts stream to `on_answer` and `on_edit`. A correction that does not fit
    the aligner's context, comes out empty, goes round in circles, is stopped or whose server fails leaves the text as
    it was and says so in `failure`; a `gate` may keep the text, too. Once `stop` says so, what runs ends. Raises
    UsageError for an empty query or an unknown objective, and what the policy raises.
    """
    return align_each(
        query,
        [objectives],
        policy=policy,
        aligner=aligner,
        history=history,
        rounds=rounds,
        on_answer=on_answer,
        on_edit=on_edit,
        stop=stop,
        gate=gate,
    )[0]


def align_each(
    query: str,
    objective_sets: Iterable[str | Iterable[str | Objective]],
    *,
    policy: Policy,
    aligner: Aligner,
    history: Sequence[Message] = (),
    rounds: int = 1,
    on_answer: OnText | None = None,
    on_edit: OnText | None = None,
    stop: Stop | None = None,
    gate: Gate | None = None,
) -> list[Correction]:
    """As `align`, with one correction of the same answer for each set of objectives, written side by side.

    The shared part of the prompts is read once. `on_edit` gets the first correction as it grows; with several rounds,
    which may each be the last, it gets none.
    """
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    wanted = [tuple(resolve(objectives)) for objectives in objective_sets]
    # A policy that knows no turns is asked single questions as ever; nor does every policy know how to stop.
    turns: dict[str, Any] = {"history": history} if history else {}
    options = turns | ({"stop": stop} if stop else {})
    if getattr(policy, "elsewhere", False):
        with aligner.reading_ahead(query, wanted[0], on_answer, **turns) as listen:
            answer = policy.answer(query, listen, **options)
    else:
        answer = policy.answer(query, on_answer, **options)
    corrections = [Correction(query, objectives, answer, tidy(answer.text), aligner.layout) for objectives in wanted]
    if missing := _nothing_to_edit(answer):
        return [replace(correction, failure=missing) for correction in corrections]
    editing = dict(enumerate([answer] * len(wanted)))  # what the next round edits, by correction
    for _ in range(rounds):
        each = [(text, wanted[i]) for i, text in editing.items()]
        try:
            edits = aligner.edit(query, each, on_edit if rounds == 1 else None, **options)
        except (PromptTooLong, EndpointError) as error:  # the answer is there, whatever becomes of its edit
            for i in editing:
                corrections[i] = replace(corrections[i], failure=str(error), error=error)
            break
        for i, edit in zip(list(editing), edits, strict=True):
            before = corrections[i]
            corrections[i] = _after(before, edit)
            if gate and corrections[i].aligned and edit.text != before.text:
                corrections[i] = _judged(gate, corrections[i], before, editing[i], aligner, history)
            if (
                corrections[i].failure or corrections[i].text == before.text
            ):  # settled: the next round would do the same
                del editing[i]
            else:
                editing[i] = Answer(edit.text)
        if not editing:
            break
    return corrections


def _judged(
    gate: Gate,
    after: Correction,
    before: Correction,
    edited: Answer,
    aligner: Aligner,
    history: Sequence[Message],
) -> Correction:
    """What the gate makes of one more round: the correction after it, or what was there before."""
    edit, kept = aligner.likelihoods(after.query, edited, after.objectives, [after.text, edited.text], history)
    preference = edit - kept
    if gate.takes(edit, kept):
        return replace(after, preference=preference)
    return replace(before, edits=after.edits, preference=preference)


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
        if missing := _nothing_to_edit(answer):
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
            after = _after(corrections[i], edit)
            if gate and not after.failure and after.text != corrections[i].text:
                gated[i] = after
            else:
                settle(i, after, last)

        edits = [Edit(cases[i].query, editing[i], cases[i].objectives, cases[i].history) for i in numbers]
        aligner.edit_all(edits, in_flight=in_flight, on_done=ended, strict=False)
        for i, after in gated.items():
            assert gate
            try:
                judged = _judged(gate, after, corrections[i], editing[i], aligner, cases[i].history)
            except PromptTooLong as error:
                judged = replace(corrections[i], edits=after.edits, failure=str(error), error=error)
            settle(i, judged, left == 1)


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


def _after(before: Correction, edit: Generation | MalError) -> Correction:
    """The correction after one more round."""
    if isinstance(edit, MalError):
        return replace(before, failure=str(edit), error=edit)
    failure = _FAILURES.get(edit.finish, "" if edit.text else "the aligner wrote nothing")
    if failure:
        return replace(before, edits=(*before.edits, edit), failure=failure)
    return replace(before, edits=(*before.edits, edit), text=edit.text, aligned=True)


_FAILURES = {"loop": "the aligner went round in circles", "stopped": "the aligner was stopped"}


def _nothing_to_edit(answer: Answer) -> str:
    """Why there is nothing to edit, "" if there is."""
    if answer.generation and answer.generation.finish == "stopped":
        return "the policy was stopped"
    if answer.generation and answer.generation.finish == "length" and not answer.text.strip():
        return "the policy's thoughts took all the tokens it may write, no answer followed; raise `max_tokens`"
    if answer.reasoning and not answer.text.strip():
        return "the policy wrote only thoughts, no answer"
    return "" if answer.text.strip() else "there is no answer to edit: it is empty"

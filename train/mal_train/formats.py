"""What data sets look like, and how each becomes rows.

Every format ends as the same rows (rows.py), since ratings express all of them: a preference sign is a rating of 1
against 0, a tie 1 against 1, and an edit that exists already is its target against its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metaaligner_lite.errors import DataError, UsageError
from metaaligner_lite.objectives import Objective

from . import aligner_data
from .rows import Answer, Names, Row, number
from .sources import Record

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SIGNS: dict[Any, tuple[float, float]] = {">": (1, 0), "<": (0, 1), "=": (1, 1), 1: (1, 0), -1: (0, 1), 0: (1, 1)}


@dataclass(frozen=True, slots=True)
class Mapped:
    """How the user said that a data set is to be read."""

    names: Names
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the data's
    answers: tuple[str, ...] = ()  # columns that hold one answer each
    objectives: tuple[Objective, ...] = ()  # on which a preferred answer is the better one

    def column(self, name: str) -> str:
        """The data's name for `name`."""
        return self.columns.get(name, name)

    def text(self, record: Record, *names: str) -> str:
        """The text under the first of these names that is there. Raises DataError if none is."""
        for name in names:
            value = record.get(self.columns.get(name, name))
            if isinstance(value, str):
                return value
        known = ", ".join(map(repr, list(record)[:8]))
        raise DataError(f"no text under {self.columns.get(names[0], names[0])!r}; it has {known}")


Format = Callable[[Record, Mapped], Iterable[Row]]


def detect(record: Record, mapped: Mapped) -> str:
    """The format whose keys a record has. Raises UsageError, naming the keys, if none fits."""
    keys = set(record) | {name for name, column in mapped.columns.items() if column in record}
    if mapped.answers:
        return "answers"
    for name, wanted in _KEYS.items():
        if any(keys >= group for group in wanted):
            return name
    raise UsageError(
        f"the data's form is not known by its keys ({', '.join(sorted(map(str, record))[:12])}); name it with --format "
        f"({', '.join(FORMATS)}) and its columns with --column, such as --column query=instruction"
    )


def rows(record: Record, mapped: Mapped) -> Iterator[Row]:
    """Our own rows: query and answers with ratings."""
    answers = record.get("answers")
    if not isinstance(answers, list):
        raise DataError("fewer than two answers; expected a list of at least two to compare")
    found = []
    for answer in answers:
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise DataError('an answer without text; expected {"text": "...", "ratings": {...}}')
        ratings = answer.get("ratings") or {}
        found.append(Answer(answer["text"], {mapped.names[o]: number(v, o) for o, v in ratings.items()}))
    yield Row(str(record.get("id", "")), mapped.text(record, "query"), tuple(found))


def ultrafeedback(record: Record, mapped: Mapped) -> Iterator[Row]:
    """One instruction, several completions, each with a rating per aspect; "N/A" rates nothing."""
    completions = record.get(mapped.column("completions"))
    if not isinstance(completions, list):
        raise DataError("no completions; expected a list of answers with annotations")
    answers = []
    for completion in completions:
        if not isinstance(completion, dict) or not isinstance(completion.get("response"), str):
            continue  # as the reference does: the others can still be compared
        annotations = completion.get("annotations") or {}
        rated = {mapped.names[aspect]: _rating(entry) for aspect, entry in annotations.items()}
        answers.append(Answer(completion["response"], {o: value for o, value in rated.items() if value is not None}))
    yield Row("", mapped.text(record, "instruction", "prompt", "query"), tuple(answers))


def dialogues(record: Record, mapped: Mapped) -> Iterator[Row]:
    """HH-RLHF: two whole dialogues that differ in their last answer (or a prompt and two answers)."""
    chosen, rejected = record.get(mapped.column("chosen")), record.get(mapped.column("rejected"))
    if isinstance(chosen, list) and isinstance(rejected, list):
        chosen, rejected = (_messages_as_dialogue(turns) for turns in (chosen, rejected))
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError("chosen or rejected is no text")
    prompt = record.get(mapped.column("prompt"))
    if isinstance(prompt, str) and prompt.strip() and not chosen.startswith(_HUMAN):
        query, first, second = prompt, chosen.strip(), rejected.strip()
    else:
        query, first, second = _last_answers(chosen, rejected)
    yield _preference(query, first, second, dict.fromkeys(mapped.objectives, (1, 0)))


def preferences(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A pair with a sign per objective: {"query", "first", "second", "preferences": {"empathy": ">", ...}}."""
    signs = record.get(mapped.column("preferences"))
    if not isinstance(signs, dict):
        raise DataError('no preferences; expected a table such as {"empathy": ">", "brevity": "="}')
    ratings = {}
    for name, sign in signs.items():
        if isinstance(sign, bool) or sign not in _SIGNS:
            raise DataError(f"the preference on {name!r} is {sign!r}; expected >, <, = or 1, -1, 0")
        ratings[mapped.names[name]] = _SIGNS[sign]
    first, second = mapped.text(record, "first", "y1"), mapped.text(record, "second", "y2")
    yield _preference(mapped.text(record, "query", "prompt", "q"), first, second, ratings)


def safe_rlhf(record: Record, mapped: Mapped) -> Iterator[Row]:
    """PKU-SafeRLHF: two responses, which is the better and which the safer."""
    ratings = {}
    for key, name in (("better_response_id", "helpfulness"), ("safer_response_id", "harmlessness")):
        if record.get(key) in (0, 1):
            ratings[mapped.names[name]] = (1.0, 0.0) if record[key] == 0 else (0.0, 1.0)
    first, second = mapped.text(record, "response_0"), mapped.text(record, "response_1")
    yield _preference(mapped.text(record, "prompt", "query"), first, second, ratings)


def corrections(record: Record, mapped: Mapped) -> Iterator[Row]:
    """PKU Aligner: an answer and its correction, better on the objectives the user named; a copy keeps them all."""
    answer, correction = mapped.text(record, "answer"), mapped.text(record, "correction")
    better = (1.0, 1.0) if answer == correction else (1.0, 0.0)
    ratings = dict.fromkeys(mapped.objectives, better)
    yield _preference(mapped.text(record, "question", "query"), correction, answer, ratings)


def answers_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A record with several answers, one per column; what they are worth, scorers must say."""
    texts = [mapped.text(record, column) for column in mapped.answers]
    yield Row("", mapped.text(record, "query", "prompt"), tuple(Answer(text, {}) for text in texts))


def ratings_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """One answer per record, a column per objective; the records of a query are put together afterwards."""
    text, skipped = mapped.text(record, "answer", "response"), {"id", "query", "answer", "response", "prompt"}
    skipped |= {mapped.column(name) for name in skipped}
    ratings: dict[Objective, float] = {}
    for column, value in record.items():
        name = next((ours for ours, theirs in mapped.columns.items() if theirs == column), column)
        if column in skipped or value in ("", None):
            continue
        try:
            objective = mapped.names[name]
        except UsageError:
            continue  # a table has columns of many kinds; those taken for objectives are told in the account
        rating = _rating(value)
        if rating is None:
            raise DataError(f"the rating of {name!r} is not a number; expected one such as 3 or 0.5")
        ratings[objective] = rating
    yield Row("", mapped.text(record, "query", "prompt"), (Answer(text, ratings),))


def edits(record: Record, mapped: Mapped) -> Iterator[Row]:
    """Aligner data: TRL prompt/completion, ShareGPT conversations or chat messages that hold our prompts already."""
    yield aligner_data.read(record, mapped.names)


FORMATS: dict[str, Format] = {
    "rows": rows,
    "ultrafeedback": ultrafeedback,
    "dialogues": dialogues,
    "preferences": preferences,
    "safe-rlhf": safe_rlhf,
    "corrections": corrections,
    "edits": edits,
    "answers": answers_table,
    "ratings": ratings_table,
}
_KEYS: dict[str, tuple[set[str], ...]] = {
    "rows": ({"query", "answers"},),
    "ultrafeedback": ({"instruction", "completions"}, {"prompt", "completions"}),
    "dialogues": ({"chosen", "rejected"},),
    "preferences": ({"preferences"},),
    "safe-rlhf": ({"response_0", "response_1"},),
    "corrections": ({"question", "answer", "correction"}, {"query", "answer", "correction"}),
    "edits": ({"prompt", "completion"}, {"conversations"}, {"messages"}),
    "ratings": ({"query", "answer"}, {"query", "response"}, {"prompt", "response"}),
}


def _preference(query: str, first: str, second: str, ratings: Mapping[Objective, tuple[float, float]]) -> Row:
    if first == second and any(one != other for one, other in ratings.values()):
        raise DataError("both answers are the same text")
    one, other = ({o: pair[i] for o, pair in ratings.items()} for i in (0, 1))
    return Row("", query, (Answer(first, one), Answer(second, other)))


def _rating(entry: Any) -> float | None:
    value: Any = entry.get("Rating", entry.get("rating")) if isinstance(entry, dict) else entry
    try:
        return number(float(value), "") if not isinstance(value, bool) else None
    except (TypeError, ValueError, DataError):
        return None


def _last_answers(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The query, with its turn markers as the released checkpoints know it, and the two last answers."""
    if _ASSISTANT not in chosen or _ASSISTANT not in rejected:
        raise DataError('no "Assistant:" turn; expected dialogues of Human: and Assistant: turns')
    (before, first), (other, second) = (text.rsplit(_ASSISTANT, 1) for text in (chosen, rejected))
    if before.rstrip() != other.rstrip():
        raise DataError("the two dialogues part before their last answer")
    return f"{before.rstrip()} {_ASSISTANT}", first.strip(), second.strip()


def _messages_as_dialogue(turns: list[Any]) -> str:
    names = {"user": _HUMAN, "human": _HUMAN, "assistant": _ASSISTANT, "gpt": _ASSISTANT}
    parts = []
    for turn in turns:
        role, text = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in names or not isinstance(text, str):
            raise DataError("a message without a known role or text")
        parts.append(f"{names[role]} {text}")
    return "".join(parts)

"""What data sets look like, and how each becomes rows.

Every format ends as the same rows (rows.py), since ratings express all of them: a preference sign is a rating of 1
against 0, a tie 1 against 1, and an edit that exists already is its target against its answer. A format sees records
under our names: `Mapped.renamed` has been over them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from metaaligner_lite.errors import DataError, UsageError
from metaaligner_lite.objectives import Objective
from metaaligner_lite.records import Record

from . import aligner_data
from .rows import Answer, Names, Row, number

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SIGNS: dict[Any, tuple[float, float]] = {
    **dict.fromkeys((">", 1, "1"), (1, 0)),
    **dict.fromkeys(("<", -1, "-1"), (0, 1)),
    **dict.fromkeys(("=", 0, "0"), (1, 1)),
}
_CHOSEN = {"0": (1.0, 0.0), "0.0": (1.0, 0.0), "1": (0.0, 1.0), "1.0": (0.0, 1.0)}  # a table's ids are texts
_UNRATED = (None, "", "N/A")
_TEXTS = {"id", "query", "prompt", "q", "answer", "response", "first", "second", "y1", "y2"}


@dataclass(frozen=True, slots=True)
class Mapped:
    """How the user said that a data set is to be read."""

    names: Names
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the data's
    answers: tuple[str, ...] = ()  # columns that hold one answer each
    objectives: tuple[Objective, ...] = ()  # on which a preferred answer is the better one
    marked: bool = False  # a dialogue of one question keeps its marks, too, as in the reference code

    def renamed(self, record: Record) -> Record:
        """The record with the user's columns under our names."""
        ours = {name: record[column] for name, column in self.columns.items() if column in record}
        return {key: value for key, value in record.items() if key not in self.columns.values()} | ours

    def objectives_of(self, record: Record) -> dict[str, Objective]:
        """The columns of a table that are named like objectives."""
        found = {}
        for column in record.keys() - _TEXTS:
            with suppress(UsageError):  # a table has columns of many kinds; `Built` tells which were not read
                found[column] = self.names[column]
        return found

    def unread(self, record: Record) -> set[str]:
        """The columns of a table that are neither texts nor objectives."""
        return set(record) - _TEXTS - {"preferences"} - set(self.objectives_of(record))


_Turns = list[tuple[str, str]]  # of _HUMAN and _ASSISTANT, and what they say
Found = Row | DataError  # an error: a part of the record, such as one of its answers, cannot be used; the rest can
Format = Callable[[Record, Mapped], Iterable[Found]]


def detect(record: Record, mapped: Mapped) -> str:
    """The format whose keys a record has. Raises UsageError, naming the keys, if none fits."""
    keys = set(record)
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
        ratings = _table(answer, "ratings")
        found.append(Answer(answer["text"], {mapped.names[o]: number(v, o) for o, v in ratings.items()}))
    yield Row(str(record.get("id", "")), _text(record, "query"), tuple(found))


def ultrafeedback(record: Record, mapped: Mapped) -> Iterator[Found]:
    """One instruction, several completions, each with a rating per aspect; "N/A" rates nothing."""
    completions = record.get("completions")
    if not isinstance(completions, list):
        raise DataError("no completions; expected a list of answers with annotations")
    answers = []
    for completion in completions:
        if not isinstance(completion, dict) or not isinstance(completion.get("response"), str):
            # As the reference does: the others can still be compared.
            yield DataError("a completion without text, left out of its record; expected a text under 'response'")
            continue
        ratings: dict[Objective, float] = {}
        for aspect, entry in _table(completion, "annotations").items():
            try:
                if (rating := _rating(entry, aspect)) is not None:
                    ratings[mapped.names[aspect]] = rating
            except DataError as error:
                yield DataError(f"{error}; left out of its record")
        answers.append(Answer(completion["response"], ratings))
    yield Row("", _text(record, "instruction", "prompt", "query"), tuple(answers))


def dialogues(record: Record, mapped: Mapped) -> Iterator[Row]:
    """HH-RLHF: two whole dialogues that differ in their last answer; or TRL's prompt and two answers."""
    prompt, chosen, rejected = (record.get(name) for name in ("prompt", "chosen", "rejected"))
    if isinstance(chosen, list) and isinstance(rejected, list):
        turns, first, second = _last_answers(_messages(prompt, chosen), _messages(prompt, rejected))
    elif not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError("chosen or rejected is no text")
    elif isinstance(prompt, str) and prompt.strip() and not chosen.startswith(_HUMAN):
        turns, first, second = [(_HUMAN, prompt)], chosen.strip(), rejected.strip()
    else:
        turns, first, second = _last_answers(_turns(chosen), _turns(rejected))
    yield _preference(_query(turns, mapped.marked), first, second, dict.fromkeys(mapped.objectives, (1, 0)))


def preferences(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A pair with a sign per objective: {"query", "first", "second", "preferences": {"empathy": ">", ...}}.

    In a table the signs stand in columns named after the objectives.
    """
    signs = record.get("preferences")
    if "preferences" not in record:
        signs = {column: record[column] for column in mapped.objectives_of(record) if record[column] not in ("", None)}
    if not isinstance(signs, dict) or not signs:
        raise DataError('no preferences; expected a table such as {"empathy": ">", "brevity": "="}')
    ratings = {}
    for name, sign in signs.items():
        if isinstance(sign, bool | dict | list) or sign not in _SIGNS:
            raise DataError(f"the preference on {name!r} is {sign!r}; expected >, <, = or 1, -1, 0")
        ratings[mapped.names[name]] = _SIGNS[sign]
    first, second = _text(record, "first", "y1"), _text(record, "second", "y2")
    yield _preference(_text(record, "query", "prompt", "q"), first, second, ratings)


def safe_rlhf(record: Record, mapped: Mapped) -> Iterator[Row]:
    """PKU-SafeRLHF: two responses, which is the better and which the safer."""
    ratings = {}
    for key, name in (("better_response_id", "helpfulness"), ("safer_response_id", "harmlessness")):
        if (chosen := record.get(key)) in _UNRATED:
            continue
        if str(chosen) not in _CHOSEN:
            raise DataError(f"{key} is no response's; expected 0 or 1")
        ratings[mapped.names[name]] = _CHOSEN[str(chosen)]
    first, second = _text(record, "response_0"), _text(record, "response_1")
    yield _preference(_text(record, "prompt", "query"), first, second, ratings)


def corrections(record: Record, mapped: Mapped) -> Iterator[Row]:
    """PKU Aligner: an answer and its correction, better on the objectives the user named; a copy keeps them all."""
    answer, correction = _text(record, "answer"), _text(record, "correction")
    better = (1.0, 1.0) if answer == correction else (1.0, 0.0)
    ratings = dict.fromkeys(mapped.objectives, better)
    yield _preference(_text(record, "question", "query"), correction, answer, ratings)


def answers_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A record with several answers, one per column; what they are worth, scorers must say."""
    texts = [_text(record, column) for column in mapped.answers]
    yield Row("", _text(record, "query", "prompt"), tuple(Answer(text, {}) for text in texts))


def ratings_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """One answer per record, a column per objective; the records of a query are put together afterwards."""
    ratings: dict[Objective, float] = {}
    for column, objective in mapped.objectives_of(record).items():
        if (rating := _rating(record[column], column)) is not None:
            ratings[objective] = rating
    yield Row("", _text(record, "query", "prompt"), (Answer(_text(record, "answer", "response"), ratings),))


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
TABLES = {"preferences", "ratings"}  # the formats whose columns can be objectives
_KEYS: dict[str, tuple[set[str], ...]] = {
    "rows": ({"query", "answers"},),
    "ultrafeedback": ({"instruction", "completions"}, {"prompt", "completions"}),
    "dialogues": ({"chosen", "rejected"},),
    "preferences": ({"preferences"}, {"first", "second"}, {"y1", "y2"}),
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


def _rating(entry: Any, name: str) -> float | None:
    """A rating, or the one in an annotation; None where nothing is rated. Raises DataError for what is no number."""
    value: Any = entry.get("Rating", entry.get("rating")) if isinstance(entry, dict) else entry
    if value in _UNRATED:
        return None
    with suppress(ValueError):
        value = float(value) if isinstance(value, str) else value
    return number(value, name)


def _table(record: Record, name: str) -> dict[str, Any]:
    """The table under a name, empty if there is none. Raises DataError for anything else."""
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{name!r} is no table; expected one such as {{objective: number}}")
    return value


def _text(record: Record, *names: str) -> str:
    """The text under the first of these names that is there. Raises DataError if none is."""
    for name in names:
        if isinstance(value := record.get(name), str):
            return value
    known = ", ".join(map(repr, list(record)[:8]))
    raise DataError(f"no text under {names[0]!r}; it has {known}")


def _last_answers(chosen: _Turns, rejected: _Turns) -> tuple[_Turns, str, str]:
    """What comes before the last answers of dialogues that are the same up to them, and those answers."""
    if not chosen or not rejected or {chosen[-1][0], rejected[-1][0]} != {_ASSISTANT}:
        raise DataError("a dialogue does not end in an answer of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise DataError("the two dialogues part before their last answer")
    return chosen[:-1], chosen[-1][1], rejected[-1][1]


def _query(turns: _Turns, marked: bool) -> str:
    """What is to be answered: one question as it is, a longer dialogue with the marks the released checkpoints know.

    The layouts put those marks around a single question themselves, or need none, as at run time. The reference
    code's reward models were shown them, so `marked` puts them there.
    """
    if [role for role, _ in turns] == [_HUMAN] and (not marked or _HUMAN in turns[0][1]):
        return turns[0][1]
    dialogue = "".join(f"{role} {text}" for role, text in turns)
    return f"{dialogue} {_ASSISTANT}"


def _turns(dialogue: str) -> _Turns:
    """The turns of a dialogue in HH-RLHF's text form."""
    parts = re.split(f"({_HUMAN}|{_ASSISTANT})", dialogue)
    if _ASSISTANT not in parts:
        raise DataError('no "Assistant:" turn; expected dialogues of Human: and Assistant: turns')
    if parts[0].strip():
        raise DataError('text before the first turn; expected dialogues that begin with "Human:"')
    return [(role, text.strip()) for role, text in zip(parts[1::2], parts[2::2], strict=True)]


def _messages(prompt: Any, turns: list[Any]) -> _Turns:
    """Chat messages as turns; a prompt that stands apart from them comes first."""
    names = {"user": _HUMAN, "human": _HUMAN, "assistant": _ASSISTANT, "gpt": _ASSISTANT}
    found: _Turns = []
    for turn in turns:
        role, text = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or role not in names or not isinstance(text, str):
            raise DataError("a message without a known role or text")
        found.append((names[role], text.strip()))
    if not found or found[0][0] == _HUMAN:
        return found  # the whole dialogue; a prompt beside it only repeats its beginning
    return [*_messages(None, prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]), *found]

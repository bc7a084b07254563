"""What data sets look like, and how each becomes rows.

Every format ends as the same rows (rows.py), since ratings express all of them: a preference sign is a rating of 1
against 0, a tie 1 against 1, and an edit that exists already is its target against its answer. A format sees records
under our names: `Mapped.renamed` has been over them. There is one reader for each way of saying what is better (a
better and a worse answer, two and a winner, ranks, scores, labels of single answers), whatever the columns are called;
what is asked is read by turns.py, which of two is preferred by verdicts.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from metaaligner_lite.errors import DataError, UsageError
from metaaligner_lite.objectives import Objective
from metaaligner_lite.prompts import Message
from metaaligner_lite.records import Record
from metaaligner_lite.transcripts import as_transcript, read_transcript

from . import aligner_data
from .rows import Answer, Names, Row, no_number, number, turns_before
from .turns import answer_of, asked, ending, is_chat, parsed, refuse_pictures, split, to_judge, unfolded, with_system
from .verdicts import beside_pair, decides, is_true, numbered, of_sides, pair_of, sides_of

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SIGNS: dict[Any, tuple[float, float]] = {
    **dict.fromkeys((">", 1, "1"), (1, 0)),
    **dict.fromkeys(("<", -1, "-1"), (0, 1)),
    **dict.fromkeys(("=", 0, "0"), (1, 1)),
}
_BY_SIGN: dict[int, tuple[float, float]] = {1: (1.0, 0.0), 0: (1.0, 1.0), -1: (0.0, 1.0)}
_CHOSEN = {"0": (1.0, 0.0), "0.0": (1.0, 0.0), "1": (0.0, 1.0), "1.0": (0.0, 1.0)}  # a table's ids are texts
_UNRATED = (None, "", "N/A")
_TEXTS = {"id", "query", "prompt", "q", "answer", "response", "first", "second", "y1", "y2"}
_LISTS = ("completions", "answers", "responses", "generations", "outputs", "candidates")
_RANKS = ("rank", "ranks", "ranking", "rankings")
_OVERALL = ("score", "scores", "rating", "ratings", "overall", "overall_score", "reward", "rewards", "orig_score")
_RATED = ("annotations", "ratings", "scores", "parsed_result")  # tables of aspects
_LABELS = ("label", "kto_tag", "is_safe", "desirable", "is_good", "thumbs_up", "feedback")
_MEANT = {"safety": "harmlessness", "is_safe": "harmlessness"}  # where the catalogue's word means something else
_SINGLE = ("answer", "response", "completion", "output", "generated_text", "system_output", "orig_response")
_WEAK = (("answer", "correction"), ("original_response", "edited_response"), ("response", "edited_response"))
_SAMPLES = ("goldens", "generated_text")  # the reference repository's outputs of policies
_JUDGES = ("gpt4_score", "human_score", "preference")  # of one answer; AlpacaEval's against another one, from 1 to 2
_QUESTION = re.compile(r"Q: (?P<query>.*?)\nA:(?P<answer>.*)\n(?P<about>True|Helpful):\s*", re.DOTALL)
_ABOUT = {"True": "truthfulness", "Helpful": "helpfulness"}
_REWRITTEN = (
    *(("source", "target"), ("orig", "simple"), ("original", "simplified"), ("pre", "post"), ("toxic", "neutral1")),
    *(("original_text", "reframed_text"), ("original_text", "reference_summary"), ("src", "tgt"), ("text", "rewrite")),
)
_PARTED = "the dialogues part before their last answer; the first answers that differ were compared"
_BEGINNING = "what both texts begin with was taken for the prompt"
_PROMPTS = {"query", "prompt", "question", "instruction", "orig_instruction", "input", "q", "source", "context"}


@dataclass(frozen=True, slots=True)
class Mapped:
    """How the user said that a data set is to be read."""

    names: Names
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the data's
    answers: tuple[str, ...] = ()  # columns that hold one answer each
    objectives: tuple[Objective, ...] = ()  # on which a preferred answer is the better one
    marked: bool = False  # a dialogue keeps its marks, in one text, as in the reference code
    notes: Counter[str] = field(default_factory=Counter, compare=False)  # what could not be kept as it was
    unread: set[str] = field(default_factory=set, compare=False)  # names of ratings inside of columns
    _named: dict[str, Objective | None] = field(default_factory=dict, init=False, compare=False)
    _rated: dict[float, dict[Objective, float]] = field(default_factory=dict, init=False, compare=False)

    def rated(self, value: float) -> dict[Objective, float]:
        """One rating for all objectives that the user named; not to be changed."""
        if (found := self._rated.get(value)) is None:
            found = self._rated[value] = dict.fromkeys(self.objectives, value)
        return found

    def renamed(self, record: Record) -> Record:
        """The record with the user's columns under our names."""
        if not self.columns:
            return record
        ours = {name: record[column] for name, column in self.columns.items() if column in record}
        return ours | {key: value for key, value in record.items() if key not in self.columns.values()}

    def objectives_of(self, record: Record) -> dict[str, Objective]:
        """The columns of a table that are named like objectives."""
        found = {}
        for column in record:
            if column not in _TEXTS and (objective := self.objective(column)):
                found[column] = objective
        return found

    def objective(self, name: str) -> Objective | None:
        """The objective that a data set names so, if there is one; the user's names go first."""
        if name not in self._named:
            self._named[name] = self._find(name)
        return self._named[name]

    def _find(self, name: str) -> Objective | None:
        for ours, theirs in self.columns.items():
            if theirs == name:
                name = ours
        return self.names.get(_MEANT.get(name, name))  # a table has columns of many kinds; `Built` tells the unread


Found = Row | DataError  # an error: a part of the record, such as one of its answers, cannot be used; the rest can
Format = Callable[[Record, Mapped], Iterable[Found]]


def detect(record: Record, mapped: Mapped) -> str:
    """The format whose keys a record has. Raises UsageError, naming the keys, if none fits."""
    if mapped.answers:
        return "answers"
    for name, fits in _FITS.items():
        if fits(record):
            return name
    lacking = lacks(record)
    raise UsageError(
        f"the data's form is not known by its keys ({', '.join(sorted(map(str, record))[:12])})"
        "; name it with --format "
        f"({', '.join(FORMATS)}) and its columns with --column, such as --column query=instruction"
        f"{f'. It looks like {lacking}' if lacking else ''}"
    )


def recognize(record: Record, mapped: Mapped) -> tuple[str, Mapped]:
    """The format of a record, and how to read it: "Best Answer" is a column, too, that we call best_answer.

    Raises UsageError as `detect`.
    """
    try:
        return detect(record, mapped), mapped
    except UsageError:
        ours = {re.sub(r"\W+", "_", key.strip().lower()): key for key in record if isinstance(key, str)}
        columns = {name: key for name, key in ours.items() if name not in record and name not in mapped.columns}
        other = replace(mapped, columns={**mapped.columns, **columns})
        try:
            return detect(other.renamed(record), other), other
        except UsageError:
            pass
        raise


def lacks(keys: Iterable[str]) -> str:
    """What records of these keys are, and what they lack to become rows; "" if that cannot be told."""
    keys = set(keys)
    for weak, strong in _REWRITTEN:
        if {weak, strong} <= keys:
            return (
                f"texts and their rewritings ({weak}, {strong}), and no query that they answer; give each a query of "
                f"your own, and read it with --format corrections --column answer={weak} --column correction={strong}"
            )
    if keys & (_PROMPTS - {"source", "context", "input"}):
        return "questions, and no answers to compare; such a file serves --held-out"
    return ""


def rows(record: Record, mapped: Mapped) -> Iterator[Row]:
    """Our own rows: query and answers with ratings."""
    answers = record.get("answers")
    if not isinstance(answers, list):
        raise DataError("fewer than two answers; expected a list of at least two to compare")
    found = []
    for answer in answers:
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise DataError('an answer without text; expected {"text": "...", "ratings": {...}}')
        ratings, good = _table(answer, "ratings"), answer.get("good") or []
        if not isinstance(good, list) or not all(isinstance(name, str) for name in good):
            raise DataError('an answer whose good is no list of names; expected one such as ["brevity"]')
        rated = {mapped.names[o]: number(v, o) for o, v in ratings.items()}
        found.append(Answer(answer["text"], rated, tuple(dict.fromkeys(mapped.names[name] for name in good))))
    history = turns_before(record.get("history"))
    yield Row(str(record.get("id", "")), _text(record, "query"), tuple(found), history)


def scores(record: Record, mapped: Mapped) -> Iterator[Found]:
    """One question, several answers, each with a rating per aspect or one for all; "N/A" rates nothing."""
    name = next((name for name in _LISTS if record.get(name) is not None), "completions")
    listed = parsed(record.get(name))
    if isinstance(listed, dict) and listed:  # by model, as are the ratings
        ratings_by = {key: parsed(record[key]) for key in record if mapped.objective(key) or key in _OVERALL}
        listed = [
            {"text": text, **{key: table.get(model) for key, table in ratings_by.items() if isinstance(table, dict)}}
            for model, text in listed.items()
        ]
    if not isinstance(listed, list):
        raise DataError("no completions; expected a list of answers with annotations")
    beside = next((found for key in _OVERALL if key in record and isinstance(found := parsed(record[key]), list)), None)
    if beside is not None and len(beside) != len(listed):
        raise DataError(f"{len(listed)} answers and {len(beside)} scores; expected one for each")
    if record.get("labels") is not None and all(isinstance(text, str) for text in listed):
        raise DataError("steps of one answer with a label each, not answers to compare")
    query, history = asked(record, mapped.notes, "instruction", "prompt", "query")
    answers, unknown = [], set[str]()
    mixed = any(isinstance(completion, dict) for completion in listed)
    for place, completion in enumerate(listed):
        try:
            if mixed and not isinstance(completion, dict):
                raise DataError("no completion")
            text = answer_of(completion, name, mapped.notes)
        except DataError:
            # As the reference does: the others can still be compared.
            yield DataError("a completion without text, left out of its record; expected a text under 'response'")
            continue
        ratings: dict[Objective, float] = {}
        overall: list[float] = []
        entries = [*_aspects(completion), *([("score", beside[place])] if beside is not None else [])]
        for aspect, entry in entries:
            objective = None if aspect in _OVERALL else mapped.objective(aspect)
            if objective is None and aspect not in _OVERALL:
                unknown.add(aspect)
                continue
            try:
                rating = _rating(entry, aspect)
            except DataError as error:
                if objective:
                    yield DataError(f"{error}; left out of its record")
                continue
            if rating is not None and objective:
                ratings[objective] = rating
            elif rating is not None:
                overall.append(rating)
        if overall and not ratings:
            ratings = mapped.rated(overall[0])
        answers.append(Answer(text, ratings))
    if unknown and not any(answer.ratings for answer in answers):
        for aspect in sorted(unknown):
            mapped.names[aspect]  # the error with the nearest known name
    mapped.unread.update(f"{name}: {aspect}" for aspect in unknown)
    yield Row("", query, tuple(answers), history)


def ranks(record: Record, mapped: Mapped) -> Iterator[Found]:
    """One question, several answers, each with its rank; the first is the best."""
    name = next((name for name in _LISTS if record.get(name) is not None), "answers")
    listed = parsed(record.get(name))
    beside = next((found for key in _RANKS if isinstance(found := parsed(record.get(key)), list)), None)
    if not isinstance(listed, list) or (beside is not None and len(beside) != len(listed)):
        raise DataError("no list of answers with a rank each")
    query, history = asked(record, mapped.notes, "prompt", "query")
    answers = []
    for place, item in enumerate(listed):
        try:
            rank = beside[place] if beside is not None else next((item[key] for key in _RANKS if key in item), None)
            rating = _rating(rank, "rank")
            text = answer_of(item, name, mapped.notes)
        except (DataError, TypeError):
            yield DataError("an answer without text or rank, left out of its record")
            continue
        if rating is None:
            yield DataError("an answer without text or rank, left out of its record")
        else:
            answers.append(Answer(text, dict.fromkeys(mapped.objectives, -rating)))
    yield Row("", query, tuple(answers), history)


def dialogues(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A better and a worse answer to a prompt, or two whole dialogues that differ in their last answer."""
    keys = tuple(record)
    names = pair_of(keys) or ("chosen", "rejected")
    chosen, rejected = record.get(names[0]), record.get(names[1])
    ratings = _BY_SIGN[beside_pair(record, keys)]
    if names[0] == "correct_answers":  # in a table TruthfulQA has them in one text
        chosen, rejected = (
            [text.strip() for text in value.split(";") if text.strip()]
            if isinstance(value := parsed(it), str)
            else value
            for it in (chosen, rejected)
        )
    if isinstance(chosen, str) and isinstance(rejected, str) and _is_whole(chosen, record):
        turns, first, second = _texts(chosen, rejected)
        refuse_pictures(record)
        query, history = split(with_system(record, turns))
    else:
        chosen, rejected = unfolded(chosen), unfolded(rejected)
        if isinstance(chosen, str) and isinstance(rejected, str):
            if names[0] == "chosen_instruction" or not _has_prompt(record):
                turns, first, second = _both(chosen, rejected, mapped.notes)
                query, history = split(with_system(record, turns))
            else:
                query, history = asked(record, mapped.notes)
                first, second = chosen.strip(), rejected.strip()
        elif _are_texts(chosen) and _are_texts(rejected):
            query, history = asked(record, mapped.notes)
            texts = [(text, ratings[0]) for text in chosen] + [(text, ratings[1]) for text in rejected]
            yield Row("", query, tuple(Answer(text, mapped.rated(value)) for text, value in texts), history)
            return
        elif isinstance(chosen, list | dict) and isinstance(rejected, list | dict):
            before, first = ending(chosen, names[0], mapped.notes)
            if isinstance(chosen, list) and isinstance(rejected, list) and chosen[:-1] == rejected[:-1]:
                other, second = before, ending(rejected[-1:], names[1], mapped.notes)[1]
            else:
                other, second = ending(rejected, names[1], mapped.notes)
            if before != other:
                raise DataError("the two dialogues part before their last answer")
            if any(turn.role == "user" for turn in before):  # whole: a prompt beside them repeats their beginning
                refuse_pictures(record)
                record.get("prompt")
                query, history = split(with_system(record, before))
            else:
                query, history = asked(record, mapped.notes)
                history = (*before, *history) if before and before[0].role == "system" else history
        else:
            raise DataError(f"{names[0]} or {names[1]} is no text")
    if first == second and ratings[0] != ratings[1] and mapped.objectives:
        raise DataError("both answers are the same text")
    if mapped.marked:
        query, history = as_transcript(query, history), ()
    better, worse = ratings
    yield Row("", query, (Answer(first, mapped.rated(better)), Answer(second, mapped.rated(worse))), history)


def preferences(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A pair with a sign per objective: {"query", "first", "second", "preferences": {"empathy": ">", ...}}.

    In a table the signs stand in columns named after the objectives.
    """
    signs = record.get("preferences")
    if "preferences" not in record:
        signs = {column: record[column] for column in mapped.objectives_of(record) if record[column] not in ("", None)}
    signs = parsed(signs)
    if not isinstance(signs, dict) or not signs:
        raise DataError('no preferences; expected a table such as {"empathy": ">", "brevity": "="}')
    ratings = {}
    for name, sign in signs.items():
        if isinstance(sign, bool | dict | list) or sign not in _SIGNS:
            raise DataError(f"the preference on {name!r} is {sign!r}; expected >, <, = or 1, -1, 0")
        ratings[mapped.names[name]] = _SIGNS[sign]
    first, second = _text(record, "first", "y1"), _text(record, "second", "y2")
    yield _preference(asked(record, mapped.notes, "query", "prompt", "q"), first, second, ratings)


def winner(record: Record, mapped: Mapped) -> Iterator[Row]:
    """Two answers, and which is the better; PKU-SafeRLHF says which is the safer, too."""
    keys = tuple(record)
    sides = sides_of(keys)
    if sides is None:
        raise DataError("no two answers to compare; expected such as response_a and response_b")
    ratings: dict[Objective, tuple[float, float]] = {}
    if "better_response_id" in record or "safer_response_id" in record:
        for key, name in (("better_response_id", "helpfulness"), ("safer_response_id", "harmlessness")):
            if (chosen := record.get(key)) in _UNRATED:
                continue
            if str(chosen) not in _CHOSEN:
                raise DataError(f"{key} is no response's; expected 0 or 1")
            ratings[mapped.names[name]] = _CHOSEN[str(chosen)]
        safe = [is_true(record.get(f"is_response_{token}_safe")) for token in sides.tokens]
        said = ratings.get(mapped.names["harmlessness"])
        if said and None not in safe and safe[0] != safe[1] and (said[0] > said[1]) != safe[0]:
            raise DataError("the answer named safer is not safe, and the other is")
    else:
        ratings = dict.fromkeys(mapped.objectives, _BY_SIGN[of_sides(record, keys, sides)])
    one, other = record[sides.first], record[sides.second]
    if _are_texts(asks := parsed(record.get("prompt"))):  # LMArena's tables: a list for all of a conversation's turns
        one, other = parsed(one), parsed(other)
        record = {**record, "prompt": asks[0]}
        if len(asks) > 1 and _are_texts(one) and _are_texts(other):
            one, other = _interleaved(asks, one), _interleaved(asks, other)
    one, other = unfolded(one), unfolded(other)
    if is_chat(one) and is_chat(other):
        before, first, second = _parted(
            ending(one, sides.first, mapped.notes), ending(other, sides.second, mapped.notes), mapped.notes
        )
        query, history = split(with_system(record, before)) if before else asked(record, mapped.notes)
    else:
        query, history = asked(record, mapped.notes)
        first = answer_of(one, sides.first, mapped.notes)
        second = answer_of(other, sides.second, mapped.notes)
    yield _preference((query, history), first, second, ratings)


def labels(record: Record, mapped: Mapped) -> Iterator[Row]:
    """One answer and whether it was liked; the records of a query are put together afterwards."""
    name = next((name for name in _LABELS if name in record), "label")
    if name not in record and (question := _question(record)):
        rated = {mapped.names[_ABOUT[question["about"]]]: float(is_true(record["completion"]) is True)}
        yield Row("", question["query"].strip(), (Answer(question["answer"].strip(), rated),))
        return
    liked = is_true(record.get(name))
    if liked is None:
        raise DataError(f"{name!r} says neither yes nor no; expected true or false")
    ratings = {mapped.names[_MEANT[name]]: float(liked)} if name in _MEANT else mapped.rated(float(liked))
    query, history, text = _answered(record, mapped)
    yield Row("", query, (Answer(text, ratings),), history)


def corrections(record: Record, mapped: Mapped) -> Iterator[Row]:
    """An answer and its correction, better on the objectives the user named; a copy keeps them all."""
    weak, strong = next((pair for pair in _WEAK if pair[0] in record and pair[1] in record), _WEAK[0])
    answer, correction = _text(record, weak), _text(record, strong)
    better = (1.0, 1.0) if answer == correction else (1.0, 0.0)
    ratings = dict.fromkeys(mapped.objectives, better)
    yield _preference(asked(record, mapped.notes, "question", "query"), correction, answer, ratings)


def answers_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """A record with several answers, one per column; what they are worth, scorers must say."""
    texts = [_text(record, column) for column in mapped.answers or _unrated(record)]
    query, history = asked(record, mapped.notes, "query", "prompt")
    yield Row("", query, tuple(Answer(text, {}) for text in texts), history)


def ratings_table(record: Record, mapped: Mapped) -> Iterator[Row]:
    """One answer per record, a column per objective or one score; records of one query are put together afterwards."""
    ratings: dict[Objective, float] = {}
    for column, objective in mapped.objectives_of(record).items():
        if (rating := _rating(record[column], column)) is not None:
            ratings[objective] = rating
    overall: list[Any] = []
    for table in _RATED:
        for aspect, entry in _aspects({table: value}) if isinstance(value := parsed(record.get(table)), dict) else ():
            known = mapped.objective(aspect)
            if known is None and aspect in _OVERALL and mapped.objectives:
                overall.append(entry)
            elif known is None:
                mapped.unread.add(f"{table}: {aspect}")
            elif (rating := _rating(entry, aspect)) is not None:
                ratings.setdefault(known, rating)
    if mapped.objectives and not ratings:
        overall += [value for column in _OVERALL if not isinstance(value := record.get(column), dict | list)]
        overall += [_mean(parsed(record.get(column))) for column in _JUDGES]
        rated = next((rating for value in overall if (rating := _rating(value, "score")) is not None), None)
        ratings = {} if rated is None else mapped.rated(rated)
    query, history, text = _answered(record, mapped)
    yield Row("", query, (Answer(text, ratings),), history)


def edits(record: Record, mapped: Mapped) -> Iterator[Row]:
    """Aligner data: TRL prompt/completion, ShareGPT conversations or chat messages that hold our prompts already."""
    yield aligner_data.read(record, mapped.names)


FORMATS: dict[str, Format] = {
    "rows": rows,
    "ultrafeedback": scores,
    "scores": scores,
    "ranks": ranks,
    "dialogues": dialogues,
    "preferences": preferences,
    "safe-rlhf": winner,
    "winner": winner,
    "labels": labels,
    "corrections": corrections,
    "edits": edits,
    "answers": answers_table,
    "ratings": ratings_table,
}
MEANING = {
    "rows": "rows of a query and rated answers, as mal data build writes them",
    "ultrafeedback": "one question, several answers, each with a rating per aspect",
    "scores": "one question, several answers, each with a score",
    "ranks": "one question, several answers, each with a rank",
    "dialogues": "a better and a worse answer to the same turns",
    "preferences": "two answers and a sign for each objective",
    "safe-rlhf": "two answers, which is the better and which the safer",
    "winner": "two answers and which is the better",
    "labels": "one answer per record with yes or no; records of one query are put together",
    "corrections": "an answer and its correction",
    "edits": "prompts in one of our layouts, each with the edit to be written",
    "answers": "several answers, each in a column of its own, and nothing that says which is better",
    "ratings": "one answer per record, rated or not; records of one query are put together",
}
GROUPED = {"ratings", "labels"}  # one answer per record: those of one query make a row


def _listed(record: Record) -> Any:
    """The first item of a record's list of answers; None if it has none."""
    for name in _LISTS:
        value = parsed(record.get(name)) if name in record else None
        if isinstance(value, list) and value:
            return value[0]
        if isinstance(value, dict) and value:
            return value
    return None


def _fits_ranks(record: Record) -> bool:
    item = _listed(record)
    if isinstance(item, dict) and any(key in item for key in _RANKS):
        return True
    return item is not None and any(isinstance(parsed(record.get(key)), list) for key in _RANKS)


def _fits_scores(record: Record) -> bool:
    if not record.keys() & _PROMPTS:
        return False
    return _listed(record) is not None or ("completions" in record and "prompt" in record)


def _fits_preferences(record: Record) -> bool:
    if "preferences" in record:
        return True
    return {"first", "second"} <= record.keys() or {"y1", "y2"} <= record.keys()


def _fits_labels(record: Record) -> bool:
    name = next((name for name in _LABELS if name in record), None)
    if name is None or (name == "feedback" and is_true(record[name]) is None):
        return _question(record) is not None
    return bool(record.keys() & {*_SINGLE, "messages", "conversations"})


def _fits_ratings(record: Record) -> bool:
    if record.keys() & {"messages", "conversations"} or to_judge(record.get("instruction")):
        return True
    return bool(record.keys() & _PROMPTS and record.keys() & set(_SINGLE))


def _question(record: Record) -> re.Match[str] | None:
    """TruthfulQA's questions to a judge: a question and its answer in the prompt, yes or no as the completion."""
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or prompt[:2] != "Q:" or is_true(record.get("completion")) is None:
        return None
    return _QUESTION.fullmatch(prompt)


def _unrated(record: Record) -> tuple[str, ...]:
    """The columns that hold an answer each."""
    return _SAMPLES if record.keys() >= set(_SAMPLES) else numbered(tuple(record))


_FITS: dict[str, Callable[[Record], bool]] = {
    "ranks": _fits_ranks,
    "rows": lambda r: (
        "query" in r
        and "answers" in r
        and not (isinstance(item := _listed(r), dict) and "ratings" not in item and "good" not in item)
    ),
    "dialogues": lambda r: pair_of(tuple(r)) is not None,
    "ultrafeedback": lambda r: isinstance(item := _listed(r), dict) and "annotations" in item and _fits_scores(r),
    "scores": _fits_scores,
    "preferences": _fits_preferences,
    "safe-rlhf": lambda r: (
        {"response_0", "response_1"} <= r.keys() and bool(r.keys() & {"better_response_id", "safer_response_id"})
    ),
    "winner": lambda r: decides(tuple(r)),
    "corrections": lambda r: any(weak in r and strong in r for weak, strong in _WEAK),
    "labels": _fits_labels,
    "edits": aligner_data.is_one,
    "answers": lambda r: bool(r.keys() & _PROMPTS and _unrated(r)),
    "ratings": _fits_ratings,
}


def _preference(
    asks: tuple[str, tuple[Message, ...]], first: str, second: str, ratings: Mapping[Objective, tuple[float, float]]
) -> Row:
    if first == second and any(one != other for one, other in ratings.values()):
        raise DataError("both answers are the same text")
    one, other = ({o: pair[i] for o, pair in ratings.items()} for i in (0, 1))
    query, history = asks
    return Row("", query, (Answer(first, one), Answer(second, other)), history)


def _answered(record: Record, mapped: Mapped) -> tuple[str, tuple[Message, ...], str]:
    """Query, turns before it and the answer of a record that holds one answer."""
    if "orig_response" not in record and (task := to_judge(record.get("instruction"))):
        return *task[0], task[1]
    for name in _SINGLE:
        if name == "output" and "orig_response" in record:  # Prometheus: what the judge wrote
            continue
        if (value := record.get(name)) is not None and value != []:
            query, history = asked(record, mapped.notes)
            return query, history, answer_of(value, name, mapped.notes)
    for name in ("messages", "conversations"):
        if isinstance(value := parsed(record.get(name)), list):
            refuse_pictures(record)
            before, text = ending(value, name, mapped.notes)
            return *split(with_system(record, before)), text
    raise DataError("no text under 'answer'")


def _aspects(completion: Any) -> list[tuple[str, Any]]:
    """The names of what an answer is rated on, with what stands there."""
    if not isinstance(completion, dict):
        return []
    if type(found := completion.get("annotations")) is dict and found:
        return list(found.items())
    if rated := [(name, entry) for table in _RATED for name, entry in _rated_table(completion, table).items()]:
        return rated
    return [(key, value) for key, value in completion.items() if type(value) in (int, float) and key not in _RANKS]


def _rated_table(record: Record, name: str) -> dict[str, Any]:
    value = parsed(record.get(name))
    if name != "annotations" and not isinstance(value, dict):
        return {}
    return _table({name: value}, name)


def _rating(entry: Any, name: str) -> float | None:
    """A rating, or the one in an annotation; None where nothing is rated. Raises DataError for what is no number."""
    value: Any = entry
    if isinstance(entry, dict):
        value = entry.get("Rating")
        if value is None:
            value = next((entry[key] for key in ("rating", "score") if key in entry), None)
    if value is None or value == "" or value == "N/A":
        return None
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            raise no_number(name) from None
    return value if type(value) is float and isfinite(value) else number(value, name)


def _mean(value: Any) -> Any:
    """The mean of what several judges gave, or the value as it is; a text that is no number rates nothing."""
    if isinstance(value, list) and value:
        return sum(number(one, "score") for one in value) / len(value)
    return value if type(value) in (int, float) else None


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


def _has_prompt(record: Record) -> bool:
    return any(record.get(name) for name in (*_PROMPTS, "messages", "conversations", "history"))


def _is_whole(chosen: str, record: Record) -> bool:
    """Whether a chosen text is a dialogue in HH-RLHF's form rather than an answer."""
    return _ASSISTANT in chosen and (chosen[:16].lstrip()[:6] == "Human:" or not _has_prompt(record))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _texts(chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """Two dialogues in HH-RLHF's text form: the turns before their last answers, and those."""
    place, other = chosen.rfind(_ASSISTANT), rejected.rfind(_ASSISTANT)
    if place < 0:
        raise DataError('no "Assistant:" turn; expected dialogues of Human: and Assistant: turns')
    same = place == other and chosen[:place] == rejected[:place]
    if not same and (other < 0 or read_transcript(chosen[:place]) != read_transcript(rejected[:other])):
        raise DataError("the two dialogues part before their last answer")
    first, second = chosen[place + len(_ASSISTANT) :], rejected[other + len(_ASSISTANT) :]
    if _HUMAN in first or _HUMAN in second:
        raise DataError("a dialogue does not end in an answer of the assistant")
    before = chosen[:place]
    if before.lstrip()[:6] != "Human:":
        raise DataError('text before the first turn; expected dialogues that begin with "Human:"')
    if _ASSISTANT not in before and before.count(_HUMAN) < 2:
        return (Message("user", before.lstrip()[6:].strip()),), first.strip(), second.strip()
    return read_transcript(before + _ASSISTANT), first.strip(), second.strip()


def _both(chosen: str, rejected: str, notes: Counter[str]) -> tuple[tuple[Message, ...], str, str]:
    """What two texts without a prompt beside them answer, and the answers."""
    if (one := to_judge(chosen)) and (other := to_judge(rejected)):
        if one[0] != other[0]:
            raise DataError("the two answers are to different queries")
        query, history = one[0]
        return (*history, Message("user", query)), one[1], other[1]
    turns, others = read_transcript(chosen), read_transcript(rejected)
    if turns and others:
        return _last_answers(turns, others)
    pairs = zip(chosen, rejected, strict=False)
    length = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))
    shared = chosen[:length]
    if any(text[length - 1 : length + 1].isalnum() for text in (chosen, rejected) if len(text) > length):
        shared = shared[: max(map(shared.rfind, " \n\t")) + 1]  # TRL divides words
    if not shared.strip():
        raise DataError(
            'no prompt and no "Assistant:" turn; expected a prompt, dialogues in turns, or texts that begin alike'
        )
    notes[_BEGINNING] += 1
    return (Message("user", shared.strip()),), chosen[len(shared) :].strip(), rejected[len(shared) :].strip()


def _interleaved(asks: list[str], answers: list[str]) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for asked_, answer in zip(asks, answers, strict=False):
        turns += {"role": "user", "content": asked_}, {"role": "assistant", "content": answer}
    return turns


def _parted(
    one: tuple[tuple[Message, ...], str], other: tuple[tuple[Message, ...], str], notes: Counter[str]
) -> tuple[tuple[Message, ...], str, str]:
    """The turns that two dialogues share, and the answers in which they part."""
    if one[0] == other[0]:
        return one[0], one[1], other[1]
    turns, others = (*one[0], Message("assistant", one[1])), (*other[0], Message("assistant", other[1]))
    place = next((i for i, (turn, its) in enumerate(zip(turns, others, strict=False)) if turn != its), 0)
    if not place or {turns[place].role, others[place].role} != {"assistant"}:
        raise DataError("the two dialogues part before their last answer")
    notes[_PARTED] += 1
    return turns[:place], turns[place].content, others[place].content


def _last_answers(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """What comes before the last answers of dialogues that are the same up to them, and those answers."""
    if {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        raise DataError("a dialogue does not end in an answer of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise DataError("the two dialogues part before their last answer")
    return chosen[:-1], chosen[-1].content, rejected[-1].content

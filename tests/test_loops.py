"""Loops: what is one, what is none, and where it is cut."""

import random

import pytest
import tiny

from metaaligner_lite.generation import GREEDY
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.decode import Task, generate
from metaaligner_lite.llama.draft import Drafter
from metaaligner_lite.loops import DOUBLED, LOOP, LoopGuard, Repeats, tidy

PARAGRAPH = "First check the tracking page, then call the carrier and ask where the parcel was seen for the last time."
SENT = "I'll send you a link to the video."
POEM = (
    "The sea is wide and the sea is deep,\nIt sings to the stones where the seagulls sleep.\n\n"
    "Roll on, roll on, you waves of blue,\nRoll on, my heart goes out with you.\n\n"
    "The moon looks down on a silver road,\nThe boats come home with their evening load.\n\n"
    "Roll on, roll on, you waves of blue,\nRoll on, my heart goes out with you.\n\n"
    "The lighthouse blinks at the end of the pier,\nAnd tells every sailor that home is near.\n\n"
    "Roll on, roll on, you waves of blue,\nRoll on, my heart goes out with you."
)
TABLE = "| day | rain | sun |\n|---|---|---|\n" + "".join(f"| {n} | {n * 7 % 30} | {n % 9} |\n" for n in range(1, 31))
CODE = "```python\n" + "".join("    total += row[0] * row[1] / row[2]\n" for _ in range(12)) + "```"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PARAGRAPH, id="plain"),
        pytest.param(POEM, id="a refrain"),
        pytest.param(TABLE, id="a table of numbers"),
        pytest.param(CODE, id="equal lines of code"),
        pytest.param("No " * 60, id="no no no"),
        pytest.param("\n".join(["- [ ] to be done"] * 12), id="a list of equal lines"),
        pytest.param("Row, row, row your boat,\nGently down the stream.\n" * 2, id="a short verse twice"),
        pytest.param("-" * 80 + "\n" + "=" * 80, id="rules"),
        pytest.param("\N{WHITE MEDIUM STAR}" * 30 + "─" * 100, id="some stars, a drawn line"),
        pytest.param("Fill in two fields.\nUser: guest\nPassword: none", id="a login"),
        pytest.param("", id="nothing"),
        pytest.param("  kept  \n", id="white space"),
        pytest.param(f"Signed: {'_' * 120}\n\nDate: {'_' * 40}", id="lines to write on"),
        pytest.param(f"A{'a' * 100}h! {'ha' * 50}", id="a cry and a laugh"),
        pytest.param(
            "".join(
                f"* Plan {n}: {n + 2} copies of the first service, {n * 3} of the second, {n * n} of the third one\n"
                for n in range(1, 4)
            ),
            id="lines that differ in their numbers",
        ),
        pytest.param("He said it would rain soon. " * 2 + "It did.", id="a sentence twice"),
        pytest.param("| 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n" * 8, id="a table of zeros"),
        pytest.param("Let it be, let it be, let it be, let it be.", id="few words four times"),
        pytest.param("```\n" + "    <td></td>\n" * 24 + "```", id="empty cells in code"),
    ],
)
def test_what_is_no_loop_stays_as_it_is(text):
    assert tidy(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param(f"{PARAGRAPH} " * 9, PARAGRAPH, id="a paragraph"),
        pytest.param(f"Hello.\n\n{PARAGRAPH}\n\n{PARAGRAPH}", f"Hello.\n\n{PARAGRAPH}", id="a paragraph twice"),
        pytest.param(
            "Do this:\n" + "".join(f"{n}. Be honest and kind.\n" for n in range(1, 40)),
            "Do this:\n1. Be honest and kind.",
            id="a counted list",
        ),
        pytest.param("no " * 200, "no", id="one word"),
        pytest.param(
            "He said it would rain soon. " * 4 + "He said it would snow.",
            "He said it would rain soon.",
            id="a short sentence that drifts",
        ),
        pytest.param(
            "1. Yes, I can come!\n" + "".join(f"{n}. I'm sorry, I can't come on that day.\n" for n in range(2, 9)),
            "1. Yes, I can come!\n2. I'm sorry, I can't come on that day.",
            id="a loop that begins within a sentence",
        ),
        pytest.param(
            "```\nimport {\n" + "    ContextMenuAction,\n" * 45,
            "```\nimport {\n    ContextMenuAction,",
            id="one long word in code",
        ),
        pytest.param("0, " * 400, "0,", id="zeros"),
        pytest.param("Well done! " + "\N{WHITE MEDIUM STAR}" * 90, "Well done! \N{WHITE MEDIUM STAR}", id="stars"),
        pytest.param(
            f"{SENT} I'll also give you a link to the video. {SENT} I'll also send you a link to the video. {SENT}",
            f"{SENT} I'll also give you a link to the video. {SENT} I'll also send you a link to the video.",
            id="sentences that drift",
        ),
        pytest.param(
            "```\n" + "import { firstThing, secondThing, thirdThing } from 'some';\n" * 10 + "import { firstThing, sec",
            "```\nimport { firstThing, secondThing, thirdThing } from 'some';",
            id="a line in code, to the limit",
        ),
        pytest.param("学而时习之，不亦说乎。" * 12, "学而时习之，不亦说乎。", id="no spaces"),
        pytest.param("```\n" + "x = f(x)\n" * 200, "```\nx = f(x)", id="code without end"),
        pytest.param(
            "Call x_" + "max_window_" * 60, ("Call x_" + "max_window_" * 60)[: 5 + 32], id="a word without end"
        ),
        pytest.param("Ha" * 300, "Ha" * 16, id="a laugh without end"),
        pytest.param("Yes.\n\nHuman: And then?\n\nAssistant: No.", "Yes.", id="an invented turn"),
    ],
)
def test_a_loop_is_cut_before_its_second_round(text, kept):
    assert tidy(text) == kept


LISTED = "I have three ideas for you.\n\n1. Hide his pen.\n\n2. Swap his cap.\n\n10. Glue the 2nd one to his desk.\n\n"


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    "round",
    [
        f"{PARAGRAPH} ",
        LISTED,
        "max_window_in_a_word_that_does_not_end_",
        "- Be honest in 2020, and in 2021, and kind.\n",
        "In the year 2020 we were kind in 2020. ",
    ],
)
def test_nothing_of_the_second_round_is_shown_while_it_is_written(round, size):
    guard, text, safe = LoopGuard(), round * 40, 0
    for start in range(0, len(text), size):
        kept = guard.add(text[start : start + size])
        if kept is not None:
            break
        safe = max(safe, guard.safe)
    assert safe <= kept and text[:kept].rstrip() == round.rstrip()


def test_how_early_a_loop_is_noticed():
    for words, noticed in ((PARAGRAPH.split(), 3 * 20), ([f"word{n}" for n in range(40)], 40 + LOOP)):
        guard = LoopGuard()
        seen = next(n for n, word in enumerate(words * 20) if guard.add(f"{word} ") is not None)
        assert seen + 1 == noticed
    assert len(PARAGRAPH.split()) > DOUBLED


@pytest.mark.parametrize("seed", range(20))
def test_repeats_are_the_longest_end_that_occurred_before(seed):
    rng, told, sequence = random.Random(seed), Repeats(), []
    for _ in range(60):
        sequence.append(rng.choice("ab" if seed % 2 else "abcd"))
        n = len(sequence)
        ends = (k for k in range(n - 1, 0, -1) if any(sequence[i : i + k] == sequence[-k:] for i in range(n - k)))
        assert told.add(sequence[-1]) == next(ends, 0)


class Says(Context):
    """A context whose model writes what it is told to, whatever the logits say."""

    script: list[int]

    def likeliest(self, place):
        return self.script[self.at(place)]

    def at(self, place):
        held = len(self.sequences[0].tokens)
        return held + (place - self.last if place >= 0 else 0) - self.start

    def extend(self, parts):
        self.last = sum(len(tokens) for _, tokens in parts) - 1
        return super().extend(parts)


@pytest.mark.parametrize("drafted", [False, True])
def test_decoding_ends_before_the_second_round(model, monkeypatch, drafted):
    """In the one decode path, with drafts or without: text, tokens, stream and cache agree."""
    monkeypatch.setattr(Context, "likeliest", Says.likeliest)  # the sampler asks the class
    prompt = list(b"abc")
    sentence = model.encode_text("the cat sat on my old red mat, ")
    with Says(model, 1024, threads=1) as context:
        context.script, context.start, context.last = sentence * 60, len(prompt), 0
        heard = []
        drafter = Drafter(sentence * 60) if drafted else None
        (written,) = generate(context, [Task(prompt, 700, GREEDY, heard.append, drafter)])
        assert written.finish == "loop"
        assert written.text == "the cat sat on my old red mat," == "".join(heard)
        assert model.text(written.tokens).strip() == written.text


def test_a_character_that_the_limit_cuts_off_is_left_out(model, monkeypatch):
    monkeypatch.setattr(Context, "likeliest", Says.likeliest)
    with Says(model, 256, threads=1) as context:
        context.script, context.start, context.last = model.encode_text("so good \N{WHITE MEDIUM STAR} yes"), 3, 0
        cut = (b"".join(map(model.piece, context.script[:n])) for n in range(1, len(context.script)))
        assert any("\ufffd" in part.decode(errors="replace") for part in cut)
        for limit in range(1, len(context.script)):
            (written,) = generate(context, [Task(list(b"abc"), limit, GREEDY)])
            assert "\ufffd" not in written.text and written.finish == "length"
            assert model.text(written.tokens).strip() == written.text  # so that the cache serves the next prompt
            context.roll_back(0)


@pytest.fixture(scope="module")
def model(tiny_path):
    from metaaligner_lite.llama.model import open_model

    with open_model(tiny_path, repack=False) as opened:
        yield opened


def test_the_tiny_model_is_not_disturbed(model):
    with Context(model, 256, threads=1) as context:
        assert tiny.write(context, list(range(5, 20)), 40).finish in ("length", "end", "loop")

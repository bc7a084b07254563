import random
import time

import pytest

from metaaligner_lite.thoughts import ThoughtFilter, Thoughts, marks_among, opened_thoughts, split_thoughts

HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>"
CASES = [
    ("<think>\nhm\n</think>\n\nHi.", "", Thoughts("hm", "Hi.")),
    ("  \n<think>hm</think>Hi.", "", Thoughts("hm", "Hi.")),
    ("<THINK>hm</Think> Hi.", "", Thoughts("hm", "Hi.")),
    ("<think></think>\n\nHi.", "", Thoughts("", "Hi.")),
    ("<think>a</think>\n<think>b</think>Hi.", "", Thoughts("a\n\nb", "Hi.")),
    ("<think>a</think><answer>Hi.</answer>", "", Thoughts("a", "Hi.")),
    ("<think>hm", "", Thoughts("hm", "", finished=False)),
    ("<think>hm</thin", "", Thoughts("hm</thin", "", finished=False)),
    ("<thi", "", Thoughts("", "<thi")),
    ("", "", Thoughts("", "")),
    ("hm</think>Hi.", "<think>", Thoughts("hm", "Hi.")),
    ("say </think> Hi.", "<think>", Thoughts("say", "Hi.")),
    ("hm", "<think>", Thoughts("hm", "", finished=False)),
    ("A <think> in the middle</think> stays.", "", Thoughts("", "A <think> in the middle</think> stays.")),
    ("It holds:\n<think>\nx\n</think>\nSo.", "", Thoughts("", "It holds:\n<think>\nx\n</think>\nSo.")),
    ("[THINK]hm[/THINK]Hi.", "", Thoughts("hm", "Hi.")),
    ("<seed:think>hm</seed:think>Hi.", "", Thoughts("hm", "Hi.")),
    ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Hi.<|END_RESPONSE|>", "", Thoughts("hm", "Hi.")),
    ("<|channel>thought\nhm<channel|>Hi.", "", Thoughts("hm", "Hi.")),
    (HARMONY + "final<|message|>Hi.<|return|>", "", Thoughts("hm", "Hi.")),
    (HARMONY + "commentary to=f<|message|>{}<|call|>", "", Thoughts("hm\n\n{}", "")),
    (HARMONY + "fin", "", Thoughts("hm", "", finished=False)),
    ("<|channel|>final<|message|>Hi.", "", Thoughts("", "Hi.")),
    ("hm\n[BEGIN FINAL RESPONSE]\nHi.\n[END FINAL RESPONSE]", "here are my reasoning steps:", Thoughts("hm", "Hi.")),
    ("Here are my reasoning steps: one.", "", Thoughts("", "Here are my reasoning steps: one.")),
    ("İ<think>İ</think>", "", Thoughts("", "İ<think>İ</think>")),
]


@pytest.mark.parametrize(("text", "opened", "expected"), CASES)
def test_thoughts_at_the_beginning_are_taken_apart(text, opened, expected):
    assert split_thoughts(text, opened) == expected


@pytest.mark.parametrize(("text", "opened", "expected"), CASES)
def test_the_stream_shows_the_answer_alone_however_it_is_cut(text, opened, expected):
    rng = random.Random(text)
    for _ in range(20):
        shown = []
        stream = ThoughtFilter(shown.append, opened)
        rest = text
        while rest:
            size = rng.randint(1, 7)
            stream.feed(rest[:size])
            rest = rest[size:]
        closed = stream.close()
        assert closed.answer == expected.answer == "".join(shown).strip()
        assert closed.reasoning == expected.reasoning


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("The user is upset.\n</think>\n\nHi.", "The user is upset.", "Hi."),
        ("The user is upset.</think>Hi.", "The user is upset.", "Hi."),
        ("hm</think>\nHi.", "hm", "Hi."),
        ("</think>\n\nHi.", "", "Hi."),
        ("Close it with </think>\nand go on.", "", "Close it with </think>\nand go on."),
        ("`</think>`\nends them.", "", "`</think>`\nends them."),
        ("In code:\n```\na\n</think>\n```", "", "In code:\n```\na\n</think>\n```"),
        ("analysisHm.assistantfinalHi.", "Hm.", "Hi."),
        ("analysis of the assistantfinal", "", "analysis of the assistantfinal"),
    ],
)
def test_a_whole_text_of_an_unknown_template(text, reasoning, answer):
    assert split_thoughts(text) == Thoughts(reasoning, answer)


def test_what_a_prompt_opens():
    assert opened_thoughts("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opened_thoughts("<|START_THINKING|>") == "<|start_thinking|>"
    assert opened_thoughts("<think>\n\n</think>\n\n") == ""
    assert opened_thoughts("<|im_start|>assistant\n") == ""


def test_control_tokens_are_seen_where_the_vocabulary_has_thoughts():
    assert marks_among({"<|start|>": 1, "<|end|>": 2, "<|im_end|>": 3}) == set()
    assert marks_among({"<|start|>": 1, "<|end|>": 2, "<|channel|>": 4, "<|message|>": 5}) == {1, 2, 4, 5}
    assert marks_among({"[THINK]": 1, "[/THINK]": 2, "[INST]": 3}) == {1, 2}
    assert marks_among({"<|channel>": 1, "<channel|>": 2}) == {1, 2}


@pytest.mark.parametrize(
    "marks",
    [
        "<think>a</think>",
        "<think>a</think><answer>b</answer>",
        "<|channel|>analysis<|message|>a<|end|>",
        "<|channel|>final<|message|>a<|return|>",
    ],
)
def test_thousands_of_marks_take_no_more_than_their_share(marks):
    def seconds(text: str) -> float:
        began = time.process_time()
        split_thoughts(text)
        return time.process_time() - began

    few, many = marks * 2_000, marks * 16_000  # eight times the text took 64 times as long
    assert min(seconds(many) for _ in range(2)) < 20 * max(min(seconds(few) for _ in range(2)), 0.01)

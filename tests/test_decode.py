import codecs
import random

import pytest
import tiny

from metaaligner_lite.generation import GREEDY, Sampling
from metaaligner_lite.llama.context import Context, common_prefix
from metaaligner_lite.llama.decode import Task, TextStream, generate
from metaaligner_lite.llama.draft import Drafter
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.templates import PLAIN_DIALOGUE, run_on_marks


def stream(chunks, marks=("Human:", "User:")):
    seen = []
    text_stream = TextStream(seen.append, marks)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        if not text_stream.feed(decoder.decode(chunk) if isinstance(chunk, bytes) else chunk):
            break
    else:
        text_stream.feed(decoder.decode(b"", final=True))
    return text_stream.close(), seen, bool(text_stream.ended)


@pytest.mark.parametrize(
    ("chunks", "text", "ended"),
    [
        (["Hello", " world"], "Hello world", False),
        (["  Hello", " \n"], "Hello", False),
        (["Bye.", "\n\n", "Human", ":", " more"], "Bye.", True),
        (["Bye.\n", "User", ": x"], "Bye.", True),
        (["\n\nHuman:"], "", True),
        (["Bye.\n  User :"], "Bye.", True),
        (["Bye.\n\nHumans are", " kind"], "Bye.\n\nHumans are kind", False),
        (["Bye.\nUse", "ful: yes"], "Bye.\nUseful: yes", False),
        (["The User", ": a person"], "The User: a person", False),
        (["Bye.\nHuman"], "Bye.\nHuman", False),
        (["A log:\n```\nUser: alice\n```\nSo."], "A log:\n```\nUser: alice\n```\nSo.", False),
        (["```\na\n```", "\nUser: more"], "```\na\n```", True),
        ([], "", False),
    ],
)
def test_stream_stops_before_a_run_on_turn(chunks, text, ended):
    result, seen, stopped = stream(chunks)
    assert (result, "".join(seen), stopped) == (text, text, ended)


@pytest.mark.parametrize("name", ["User", "Human", "Assistant"])
def test_a_model_without_a_template_is_stopped_before_it_speaks_for_anyone(name):
    text, _, stopped = stream(["I see.", f"\n\n{name}: I", " see."], run_on_marks(PLAIN_DIALOGUE, {}))
    assert (text, stopped) == ("I see.", True)


@pytest.mark.parametrize(
    ("chunks", "marks", "text", "ended"),
    [
        (["Fill in:\nUser: guest\nHuman: no"], (), "Fill in:\nUser: guest\nHuman: no", False),
        (["Bye.\n### Instr", "uction:\nMore"], ("### Instruction:",), "Bye.", True),
        (["Bye.\n### Instr", "uments"], ("### Instruction:",), "Bye.\n### Instruments", False),
        (["Bye. US", "ER: more"], (" USER:",), "Bye.", True),
        (["Bye. US", "A. USER"], (" USER:",), "Bye. USA. USER", False),
        (["Bye. USER: more"], ("USER:",), "Bye. USER: more", False),
        (["Bye.\n<|user|>", "\nmore"], ("<|user|>",), "Bye.", True),
        (["Bye.\nПользователь: x"], ("Пользователь:",), "Bye.", True),
        (["Bye.\n[INST] more"], ("[INST]",), "Bye.", True),
        (["a \n", " b"], ("Q",), "a \n b", False),
    ],
)
def test_stream_stops_at_the_marks_it_is_given(chunks, marks, text, ended):
    result, seen, stopped = stream(chunks, marks)
    assert (result, "".join(seen), stopped) == (text, text, ended)


@pytest.mark.parametrize("text", ["né", "日本語", "👩‍💻 ok", "a😀"])
def test_stream_never_breaks_a_character(text):
    result, seen, _ = stream([bytes([byte]) for byte in text.encode()])
    assert result == text
    assert "\ufffd" not in "".join(seen)


def test_stream_replaces_bytes_that_are_no_text():
    assert stream([b"a\xff", b"b\xe2\x82"])[0] == "a\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("a", "b", "length"), [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2], [1, 3], 1), ([1, 2, 3], [1, 2], 2)]
)
def test_common_prefix(a, b, length):
    assert common_prefix(a, b) == length


@pytest.fixture(scope="module")
def model(tiny_path):
    with open_model(tiny_path, repack=False) as opened:
        yield opened


@pytest.fixture
def context(model):
    with Context(model, 512, threads=1) as opened:
        yield opened


def test_reuse_reads_only_what_differs_and_changes_nothing(context, model):
    first, second = [5, 6, 7, 8, 9, 10], [5, 6, 7, 20, 21]
    fresh = tiny.write(context, second, 12)
    tiny.write(context, first, 12)
    reused = tiny.write(context, second, 12)
    assert (reused.counts.read, reused.counts.reused) == (2, 3)
    assert reused.tokens == fresh.tokens
    again = tiny.write(context, second, 12)
    assert (again.counts.read, again.counts.reused) == (1, 4)  # the last token anew, for its logits
    assert again.tokens == fresh.tokens


def test_generated_tokens_are_reused_by_a_prompt_that_continues_them(context):
    first = tiny.write(context, [5, 6, 7], 8)
    longer = tiny.write(context, [5, 6, 7, *first.tokens, 30], 2)
    assert longer.counts.reused >= 3 + len(first.tokens) - 1


def test_reading_in_batches_equals_reading_token_by_token(model):
    prompt = [3 + i % 250 for i in range(700)]
    with Context(model, 1024, threads=1) as a, Context(model, 1024, threads=1) as b:
        whole = tiny.write(a, prompt, 8)
        for end in range(1, len(prompt) + 1, 37):
            b.read(prompt[:end])
        assert tiny.write(b, prompt, 8).tokens == whole.tokens


def test_sampling_is_repeatable_by_seed(context):
    warm = Sampling(temperature=1.5, seed=7)
    first, second = (tiny.write(context, [5, 6, 7], 20, warm) for _ in range(2))
    other = tiny.write(context, [5, 6, 7], 20, Sampling(temperature=1.5, seed=8))
    assert first.tokens == second.tokens
    assert first.tokens != other.tokens


def test_texts_written_side_by_side_equal_texts_written_alone(model):
    rng = random.Random(4)
    shared = [rng.randrange(3, 259) for _ in range(50)]
    prompts = [[*shared, *(rng.randrange(3, 259) for _ in range(n))] for n in (5, 1, 9, 3)]
    warm = Sampling(temperature=0.8, seed=3)
    for sampling in (GREEDY, warm):
        with Context(model, 512, threads=1) as alone:
            expected = [tiny.write(alone, prompt, 30, sampling) for prompt in prompts]
        with Context(model, 1024, threads=1, sequences=4) as together:
            for held in ([50, 50, 50], [len(prompt) - 1 for prompt in prompts[1:]]):
                tasks = [
                    Task(prompt, 30, sampling, drafter=Drafter(other.tokens))
                    for prompt, other in zip(prompts, expected, strict=True)
                ]
                written = generate(together, tasks)
                assert [g.tokens for g in written] == [g.tokens for g in expected]
                assert [g.counts.reused for g in written[1:]] == held
            # One text alone still fits after them, though the cache is nearly full.
            assert tiny.write(together, prompts[0], 900, sampling).tokens[:30] == expected[0].tokens[:30]


@pytest.mark.parametrize("n_ctx", [1024, 200])
def test_texts_that_wait_begin_where_others_end(model, n_ctx):
    rng = random.Random(5)
    prompts = [[rng.randrange(3, 259) for _ in range(n)] for n in (40, 3, 90, 12, 7, 60)]
    lengths = [5, 30, 12, 25, 1, 9]
    with Context(model, 512, threads=1) as alone:
        expected = [tiny.write(alone, *each) for each in zip(prompts, lengths, strict=True)]
    with Context(model, n_ctx, threads=1, sequences=3) as together:
        tasks = [Task(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
        for in_flight in (0, 2):
            ended = {}
            written = generate(together, tasks, in_flight=in_flight, on_done=ended.__setitem__)
            assert [g.tokens for g in written] == [g.tokens for g in expected]
            assert ended == dict(enumerate(written))
            assert next(iter(ended)) == 0  # the shortest of the first


def test_what_waits_for_a_place_is_stopped_too(model):
    with Context(model, 512, threads=1, sequences=2) as context:
        calls = iter([False] * 4)  # two prompts are read, two tokens written
        tasks = [Task([3 + i * 7 % 250 for i in range(40)], 50)] * 4
        written = generate(context, tasks, lambda: next(calls, True))
    assert [g.finish for g in written] == ["stopped"] * 4
    assert written[0].tokens
    assert not written[3].tokens


def test_a_larger_context_takes_over_what_a_smaller_one_holds(model):
    prompt = [3 + i % 200 for i in range(100)]
    with Context(model, 256, threads=1) as small, Context(model, 512, threads=1, sequences=2) as large:
        written = tiny.write(small, prompt, 20)
        large.take_over(small.held(512))
        again = tiny.write(large, prompt, 20)
        assert again.tokens == written.tokens
        assert again.counts.read == 1

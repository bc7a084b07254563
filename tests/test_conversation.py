"""Turns of a conversation: asked, stopped, taken back, asked again, kept on the disk."""

import json

import pytest
import trained

from metaaligner_lite import GgufAligner, GgufPolicy, open_engine
from metaaligner_lite.conversation import Conversation, Kept, last_kept, load, save
from metaaligner_lite.errors import DataError, EndpointError, FileProblem, PromptTooLong, UsageError
from metaaligner_lite.generation import Sampling
from metaaligner_lite.objectives import resolve
from metaaligner_lite.testing import FakeAligner, FakePolicy

EMPATHY, CLARITY = tuple(resolve("empathy")), tuple(resolve("clarity"))


def answers(query, history):
    if query == "too long":
        raise PromptTooLong("it does not fit")
    return f"answer to {query}"


def talk(**options):
    policy = FakePolicy(options.pop("answers", answers))
    aligner = FakeAligner(lambda text, objectives: f"{text}, {objectives[0].name}")
    return Conversation(policy, aligner, EMPATHY, **options)


def said(conversation):
    return [(turn.role, turn.content) for turn in conversation.history]


def test_it_goes_on_from_the_aligned_answers_or_from_the_policys():
    aligned, own = talk(system="Be brief."), talk(keep_policy_turns=True)
    for conversation in (aligned, own):
        conversation.ask("one")
        conversation.ask("two")
    assert said(aligned) == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "answer to one, empathy"),
        ("user", "two"),
        ("assistant", "answer to two, empathy"),
    ]
    assert said(own)[1] == ("assistant", "answer to one")
    assert own.policy.asked[1].history == tuple(own.history[:2])
    assert aligned.aligner.asked[1].history == tuple(aligned.history[:3])


@pytest.mark.parametrize("words", [0, 1, 3, 4])
def test_a_stop_at_any_word_leaves_what_was_there_and_the_question_can_be_asked_again(words):
    conversation = talk()
    conversation.ask("one")
    before = conversation.history
    heard = []
    came = conversation.ask("two", heard.append, heard.append, lambda: len(heard) >= words)
    assert "was stopped" in came.failure
    assert (conversation.history, conversation.pending) == (before, "two")
    assert conversation.again().text == "answer to two, empathy"
    assert (len(conversation.exchanges), conversation.pending) == (2, "")


def test_errors_and_empty_answers_leave_what_was_there():
    conversation = talk(answers={"one": "first", "gone": EndpointError("gone"), "empty": ""})
    conversation.ask("one")
    before = conversation.history
    with pytest.raises(EndpointError):
        conversation.ask("gone")
    assert (conversation.history, conversation.pending) == (before, "gone")
    assert conversation.ask("empty").failure == "there is no answer to edit: it is empty"
    assert (conversation.history, conversation.pending) == (before, "empty")
    with pytest.raises(UsageError, match="query is empty"):
        conversation.ask(" ")
    assert conversation.pending == "empty"
    assert conversation.undo() == [] and conversation.pending == ""
    with pytest.raises(EndpointError):  # in place of the last: that one stays
        conversation.again("gone")
    assert (conversation.history, conversation.pending) == (before, "")


def test_an_edit_that_fails_keeps_the_answer_in_the_conversation():
    conversation = Conversation(FakePolicy("first"), FakeAligner(lambda *_: PromptTooLong("too long")), EMPATHY)
    assert conversation.ask("one").failure == "too long"
    assert said(conversation) == [("user", "one"), ("assistant", "first")]


def test_undo_again_and_edit():
    conversation = talk()
    for query in ("one", "two", "three"):
        conversation.ask(query)
    assert [exchange.query for exchange in conversation.undo(2)] == ["two", "three"]
    with pytest.raises(UsageError, match="1 turns to take back, not 2"):
        conversation.undo(2)
    conversation.again("uno")
    assert said(conversation) == [("user", "uno"), ("assistant", "answer to uno, empathy")]
    assert conversation.policy.asked[-1].history == ()
    conversation.undo()
    with pytest.raises(UsageError, match="nothing was asked"):
        conversation.again()


def test_again_with_other_objectives_edits_the_same_answer():
    conversation = talk()
    conversation.ask("one")
    conversation.objectives = CLARITY
    assert conversation.edits_again
    assert conversation.again().text == "answer to one, clarity"
    assert len(conversation.policy.asked) == 1 and not conversation.edits_again
    conversation.again()
    assert len(conversation.policy.asked) == 2


def test_again_samples_with_the_next_seed_and_leaves_the_settings():
    conversation = talk()
    policy, seen = conversation.policy, []
    policy.sampling = Sampling(seed=5)
    policy._answers = lambda query, history: seen.append(policy.sampling) or "text"
    conversation.ask("one")
    conversation.again()
    conversation.again()
    assert [(one.seed, one.temperature) for one in seen] == [(5, 0.0), (6, 0.7), (7, 0.7)]
    assert policy.sampling == Sampling(seed=5)
    conversation.ask("two")
    conversation.again()
    assert seen[-1].seed == 6


def test_what_is_forgotten_is_not_read_and_stays_in_the_file(tmp_path):
    conversation = talk(system="S")
    for query in ("one", "two", "three"):
        conversation.ask(query)
    conversation.forget(2)
    assert [turn.content for turn in conversation.history if turn.role == "user"] == ["three"]
    with pytest.raises(UsageError, match="read 1 turns"):
        conversation.forget(2)
    save(conversation, tmp_path / "a.json")
    other = talk()
    other.take_up(load(tmp_path / "a.json"))
    assert other.history == conversation.history and len(other.exchanges) == 3
    conversation.undo(2)
    conversation.ask("four")
    assert [turn.content for turn in conversation.history if turn.role == "user"] == ["four"]


def test_saved_and_loaded_it_is_the_same_and_other_programs_read_it(tmp_path):
    conversation = talk(system="S", keep_policy_turns=True)
    conversation.ask('one\n"two"\u2028\U0001f600')
    path = tmp_path / "a.json"
    save(conversation, path)
    other = talk()
    other.take_up(load(path))
    assert other.to_json() == conversation.to_json() and other.keep_policy_turns
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert [turn["role"] for turn in raw["messages"]] == ["system", "user", "assistant"]
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileProblem, match="there already"):
        save(conversation, path)
    save(talk(), path, replace=True)
    assert load(path).exchanges == ()


@pytest.mark.parametrize(
    ("raw", "turns", "pending", "notes"),
    [
        ([["q", "a"], ["r", None]], [("q", "a")], "r", 0),
        ([{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "q"}], [("", "Hello")], "q", 0),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [("q", "a")], "", 0),
        (
            {"messages": [{"role": "user", "content": "q"}] * 2 + [{"role": "assistant", "content": "a"}]},
            [("q\n\nq", "a")],
            "",
            1,
        ),
        ({"messages": [], "model": "x"}, [], "", 1),
    ],
)
def test_other_forms_are_loaded(tmp_path, raw, turns, pending, notes):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(raw))
    saved = load(path)
    assert [(one.query, one.text) for one in saved.exchanges] == turns
    assert (saved.pending, len(saved.notes)) == (pending, notes)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", FileProblem, "expected JSON"),
        ('{"a": 1}', DataError, "no conversation"),
        ('[{"role": "user", "content": "q"}, {"role": "system", "content": "s"}]', DataError, "in the middle"),
    ],
)
def test_files_that_hold_none(tmp_path, text, kind, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(kind, match=message):
        load(tmp_path / "a.json")


def test_each_turn_is_kept_and_two_programs_lose_none(tmp_path):
    folder = tmp_path / "chats"
    first = talk()
    kept = Kept(folder)
    kept.save(first)
    assert not folder.exists() and last_kept(folder) is None
    first.ask("one")
    kept.save(first)
    path = last_kept(folder)
    assert path == kept.path and len(load(path).exchanges) == 1
    second = talk()
    second.take_up(load(path))
    again = Kept(folder, path)
    second.ask("two")
    again.save(second)
    assert again.path == path
    first.ask("another")
    kept.save(first)
    assert kept.path != path
    assert [one.query for one in load(path).exchanges] == ["one", "two"]
    assert [one.query for one in load(kept.path).exchanges] == ["one", "another"]


@pytest.mark.parametrize("keep", [True, False])
def test_the_gauge_counts_what_the_models_will_read_and_later_turns_reuse_the_cache(keep):
    queries = [query for query, _ in trained.prompts()[:4]]
    with open_engine(trained.POLICY, threads=1) as engine, open_engine(trained.ALIGNER, threads=1) as other:
        policy, aligner = GgufPolicy(engine, max_tokens=20), GgufAligner(other, max_tokens=20)
        conversation = Conversation(policy, aligner, EMPATHY, keep_policy_turns=keep)
        gauge = conversation.gauge()
        assert (gauge.used, gauge.limit) == (0, engine.limit)
        oldest = 0
        for number, query in enumerate(queries):
            before, cached = gauge.used, policy.tokens("", conversation.history) if number else 0
            came = conversation.ask(query)
            gauge = conversation.gauge()
            assert gauge.used > before
            weak, edit = came.answer.generation.counts, came.edit.counts
            if keep:  # all but the empty turn that the measure ends with, and a word that was cut
                assert weak.reused >= cached - 16
            if number:  # the turns before the last are read no more, whoever wrote the last answer
                assert min(weak.reused, edit.reused) >= oldest
            oldest = policy.tokens("", conversation.history[:-2]) - 12 if number else 0
        assert str(gauge) == f"context: {gauge.used:,} of {gauge.limit:,} tokens ({gauge.share:.0%})"
        with pytest.raises(PromptTooLong):
            conversation.ask("long " * engine.limit)
        assert len(conversation.exchanges) == 4 and conversation.gauge() == gauge


def test_a_server_tells_no_limit():
    conversation = talk()
    conversation.ask("one")
    assert str(conversation.gauge()) == "context: 4 tokens"
    assert conversation.gauge().share == 0

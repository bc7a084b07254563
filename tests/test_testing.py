"""The fakes that ship for users' own tests behave as the real ones do."""

import pytest

from metaaligner_lite import Aligner, EndpointError, Message, Policy, PromptTooLong, align, align_each, testing
from metaaligner_lite.gate import Gate
from metaaligner_lite.testing import FakeAligner, FakePolicy


def sorry(text, objectives):
    return f"I'm sorry. {text}"


def test_they_stream_count_and_note_what_they_were_asked():
    policy: Policy = FakePolicy({"Late.": "Check it."})
    aligner: Aligner = FakeAligner(sorry)
    heard, edited = [], []
    past = [Message("user", "Hi"), Message("assistant", "Hello")]
    came = align(
        "Late.", "empathy", policy=policy, aligner=aligner, history=past, on_answer=heard.append, on_edit=edited.append
    )
    assert (came.text, came.aligned, came.failure) == ("I'm sorry. Check it.", True, "")
    assert heard == ["Check", " it."] and "".join(edited) == came.text
    assert policy.asked == [testing.Asked("Late.", tuple(past))]
    assert aligner.asked[0].answer == "Check it." and aligner.asked[0].objectives[0].name == "empathy"
    assert (came.answer.generation.counts.read, came.edit.counts.written) == (3, 4)


def test_stops_errors_thoughts_and_the_gate_as_with_real_ones():
    aligner = FakeAligner(sorry, likelihood=lambda text: -len(text))
    stopped = align("Q", "empathy", policy=FakePolicy("one two three"), aligner=aligner, stop=lambda: True)
    assert stopped.failure == "the policy was stopped" and stopped.text == ""
    with pytest.raises(EndpointError, match="gone"):
        align("Q", "empathy", policy=FakePolicy({"Q": EndpointError("gone")}), aligner=aligner)
    failed = align("Q", "empathy", policy=FakePolicy("one"), aligner=FakeAligner(lambda *_: PromptTooLong("too long")))
    assert (failed.text, failed.failure) == ("one", "too long")
    thought = align("Q", "empathy", policy=FakePolicy("one", reasoning="hm"), aligner=aligner, gate=Gate())
    assert (thought.answer.reasoning, thought.text, thought.preference) == ("hm", "one", -11.0)


def test_a_policy_elsewhere_is_read_ahead_of_and_a_function_sees_the_turns():
    policy = FakePolicy(lambda query, history: f"{query} {len(history)}", elsewhere=True)
    heard = []
    first, second = align_each(
        "Q", ["empathy", "clarity"], policy=policy, aligner=FakeAligner(sorry), on_answer=heard.append
    )
    assert (first.text, second.objectives[0].name, heard) == ("I'm sorry. Q 0", "clarity", ["Q", " 0"])


def test_the_example_in_its_docstring_runs():
    source = "\n".join(line[4:] for line in testing.__doc__.splitlines() if line.startswith("    "))
    exec(source, {"align": align, **vars(testing)})
    assert "assert align" in source

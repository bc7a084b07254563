"""An activated adapter over the policy's own base: one model, one cache, no leak either way."""

import pytest
import tiny

from metaaligner_lite.align import align, align_each
from metaaligner_lite.aligners import GgufAligner
from metaaligner_lite.errors import FileProblem, ModelError
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.engine import open_engine
from metaaligner_lite.llama.model import open_adapter, open_model
from metaaligner_lite.policies import GgufPolicy, GivenAnswer
from metaaligner_lite.prompts import invocation
from metaaligner_lite.templates import ChatTemplate

BASE, REQUEST = [10 + i % 200 for i in range(40)], [1, 50, 60, 70, 80]


@pytest.fixture(scope="module")
def base(tiny_path):
    with open_model(tiny_path, repack=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def adapter_path(base, tmp_path_factory):
    words = invocation("conversation", ChatTemplate(tiny.CHATML), base)
    return tiny.write_adapter(tmp_path_factory.mktemp("adapter") / "a.gguf", words)


@pytest.fixture
def contexts(base, adapter_path):
    adapter = open_adapter(base, adapter_path)
    with (
        Context(base, 512, threads=1, adapter=adapter) as shared,
        Context(base, 512, threads=1, adapter=adapter) as fresh,
    ):
        yield shared, fresh


def test_only_the_request_is_read_after_the_base(contexts):
    shared, fresh = contexts
    answer = tiny.write(shared, BASE, 10)
    prompt = [*BASE, *answer.tokens, *REQUEST]
    edit = tiny.write(shared, prompt, 20, adapted_from=len(prompt) - len(REQUEST))
    assert edit.counts.reused >= len(BASE) + len(answer.tokens) - 1
    assert edit.counts.read <= len(REQUEST) + 1
    assert edit.tokens == tiny.write(fresh, prompt, 20, adapted_from=len(prompt) - len(REQUEST)).tokens


def test_the_adapter_acts(contexts):
    shared, _ = contexts
    prompt = [*BASE, *REQUEST]
    adapted = tiny.write(shared, prompt, 20, adapted_from=len(BASE)).tokens
    assert adapted != tiny.write(shared, prompt, 20).tokens
    assert adapted != tiny.write(shared, prompt, 20, adapted_from=0).tokens


def test_nothing_leaks_into_the_policys_turn(contexts, base):
    shared, _ = contexts
    with Context(base, 512, threads=1) as never_adapted:
        plain = tiny.write(never_adapted, BASE, 20)
        follow_up = [*BASE, *REQUEST, 99, 98]
        plain_after = tiny.write(never_adapted, follow_up, 20)
    for _ in range(2):
        assert tiny.write(shared, BASE, 20).tokens == plain.tokens
        tiny.write(shared, [*BASE, *REQUEST], 20, adapted_from=len(BASE))
        # The next turn holds the same request text, now as the base must read it.
        after = tiny.write(shared, follow_up, 20)
        assert after.tokens == plain_after.tokens
        assert after.counts.reused == len(BASE)


def test_a_shared_pair_aligns_like_two_engines(tiny_path, adapter_path):
    with open_engine(tiny_path, adapter=adapter_path, threads=1) as shared, open_engine(tiny_path, threads=1) as alone:
        aligner = GgufAligner(shared, layout="conversation", max_tokens=16)
        expected = GgufPolicy(alone, max_tokens=16).answer("Hello?")
        for objectives in ("empathy", "clarity"):
            policy = GgufPolicy(shared, max_tokens=16)
            correction = align("Hello?", objectives, policy=policy, aligner=aligner)
            assert correction.answer.text == expected.text
            read_twice = align("Hello?", objectives, policy=GivenAnswer(expected.text), aligner=aligner)
            assert read_twice.aligned and not read_twice.failure
        request = "<|im_end|>\n<|im_start|>user\nEdit your answer to improve it considering these aspects: Clarity: "
        assert correction.edit.counts.read < len(request) + 200
        assert correction.edit.counts.reused >= len("user\nHello?\nassistant\n")


def test_several_sets_and_rounds_on_a_shared_base(tiny_path, adapter_path, monkeypatch):
    """Forked caches keep what was read without the adapter and with it: each text is that of the set alone."""
    sets = ["empathy", "clarity", "empathy,clarity", "honesty"]
    with open_engine(tiny_path, adapter=adapter_path, threads=1) as shared:
        aligner = GgufAligner(shared, layout="conversation", max_tokens=16)
        policy = GgufPolicy(shared, max_tokens=16)
        alone = [align("Hello?", names, policy=policy, aligner=aligner, rounds=2) for names in sets]
        switches, library = [], shared._context._lib
        switched = library.llama_set_adapters_lora
        monkeypatch.setattr(library, "llama_set_adapters_lora", lambda *a: switches.append(a[2]) or switched(*a))
        together = align_each("Hello?", sets, policy=policy, aligner=aligner)
        assert [c.text for c in together] == [align("Hello?", n, policy=policy, aligner=aligner).text for n in sets]
        both = align_each("Hello?", sets, policy=policy, aligner=aligner, rounds=2)
        assert [c.text for c in both] == [c.text for c in alone]
        query_and_answer = len("user\nHello?assistant\n") + len(together[0].answer.generation.tokens)
        assert all(c.edit.counts.reused >= query_and_answer for c in together)
    with open_engine(tiny_path, adapter=adapter_path, threads=1) as shared:
        aligner = GgufAligner(shared, layout="conversation", max_tokens=16)
        switches.clear()
        align_each("Hello?", sets, policy=GgufPolicy(shared, max_tokens=16), aligner=aligner)
        assert switches == [1]  # on for the edits, and not off and on again between sets that share all before


def test_refused_adapters(base, tiny_path, tmp_path):
    ordinary = tiny.write_adapter(tmp_path / "lora.gguf", None)
    with pytest.raises(FileProblem, match="is an ordinary LoRA, expected an activated one"):
        open_adapter(base, ordinary)
    with pytest.raises(FileProblem, match="is not a LoRA adapter"):
        open_adapter(base, tiny_path)
    with pytest.raises(ModelError, match="adapter for the architecture 'qwen2', but .* is 'llama'"):
        open_adapter(base, tiny.write_adapter(tmp_path / "q.gguf", [1, 2], architecture="qwen2"))
    with pytest.raises(ModelError, match="does not fit"):
        open_adapter(base, tiny.write_adapter(tmp_path / "w.gguf", [1, 2], width=96))
    with (
        open_engine(tiny_path, adapter=tiny.write_adapter(tmp_path / "i.gguf", [5, 6])) as engine,
        pytest.raises(ModelError, match="waits for another edit request"),
    ):
        GgufAligner(engine, layout="conversation")

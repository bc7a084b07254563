"""An activated adapter computes what PEFT computes: before the request, in it, and for what is written after it."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import convert_models as models
import tiny

from mal_convert import convert
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.model import open_adapter, open_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PEFT's model, the base and the adapter as GGUF, and the tokens of a conversation with its request."""
    folder = tmp_path_factory.mktemp("alora")
    base = folder / "tiny-llama"
    base.mkdir()
    models.llama(base)
    before, request = [20 + i * 7 % 200 for i in range(30)], [5, 7, 9, 60, 61, 62]
    adapted = models.adapter(base, folder / "adapter", alora_invocation_tokens=request[:3])
    whole = convert(base, folder / "base.gguf", ["f32"]).outputs[0].path
    alone = convert(folder / "adapter", folder / "out", ["f32"], adapter_only=True).outputs[0].path
    return adapted, whole, alone, before, request


def peft_logits(adapted, ids):
    import torch

    with torch.no_grad():
        return adapted(input_ids=torch.tensor([ids])).logits[0].numpy()


def test_logits_equal_pefts_for_prompt_and_generated_tokens(files):
    adapted, whole, alone, before, request = files
    with open_model(whole, gpu_layers=0, repack=False) as model:
        adapter = open_adapter(model, alone)
        assert adapter.invocation == tuple(request[:3])
        with Context(model, 256, threads=1, adapter=adapter, kv="f32") as context:
            # The policy's turn fills the cache; the aligner then reads the request alone.
            answer = tiny.write(context, before, 8).tokens
            prompt = [*before, *answer, *request]
            edit = tiny.write(context, prompt, 12, adapted_from=len(prompt) - len(request))
            assert edit.counts.read <= len(request) + 1
            expected = peft_logits(adapted, [*prompt, *edit.tokens])
            assert list(expected.argmax(-1)[len(prompt) - 1 : -1]) == list(edit.tokens)
            scale = expected.std()
            for length in range(1, len(prompt) + len(edit.tokens) + 1):
                context.read([*prompt, *edit.tokens][:length], len(prompt) - len(request))
                assert np.abs(context.logits(-1) - expected[length - 1]).max() < 1e-3 * scale, length


def test_the_policys_turn_after_it_is_the_bases_own(files):
    adapted, whole, alone, before, request = files
    with open_model(whole, gpu_layers=0, repack=False) as model:
        with Context(model, 256, threads=1, adapter=open_adapter(model, alone), kv="f32") as context:
            tiny.write(context, [*before, *request], 6, adapted_from=len(before))
            context.read([*before, *request, 33])
            found = context.logits(-1)
        with adapted.disable_adapter():
            expected = peft_logits(adapted, [*before, *request, 33])
        assert np.abs(found - expected[-1]).max() < 1e-3 * expected.std()

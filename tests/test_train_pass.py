"""The packed pass: the loss and the gradients of PEFT's own, whatever a batch is made of."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch  # noqa: TID253
from tiny_train import make_base, one_thread  # noqa: F401 (the fixture)

from mal_train import lora
from mal_train import recipe as recipes
from mal_train.collate import collate
from mal_train.encode import IGNORED, encode_edit, load_tokens
from mal_train.llama_pass import Pass, _Each, _Together
from mal_train.packed import obstacle, pack
from mal_train.reformulate import Edit
from metaaligner_lite.objectives import builtin_catalogue
from metaaligner_lite.prompts import Message, invocation

EMPATHY, BREVITY = (builtin_catalogue()[name] for name in ("empathy", "brevity"))
LONG = "It is late. " * 9


def edits_of(tokens):
    """Edits that share an answer, a query, the system turn, or nothing; of many lengths."""
    history = (Message("user", LONG), Message("assistant", "So it is."))
    first = Edit(f"Where is it? {LONG}", f"No idea. {LONG}", "I am sorry.", (EMPATHY,))
    found = [
        first,
        replace(first, target="No. " + LONG, objectives=(BREVITY, EMPATHY)),
        replace(first, answer="Somewhere.", target="Over there."),
        replace(first, answer="Somewhere else, " + LONG, target="x"),
        replace(first, history=history),
        Edit("q", "a", "t", (BREVITY,)),
        Edit("q", "a", LONG, (BREVITY,), equal=True),
    ]
    return [encode_edit(edit, tokens, "conversation/brief") for edit in found]


def peft_pass(model, edits, pad):
    batch = collate(edits, pad)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    known = labels != IGNORED
    return loss, [int(((logits.argmax(-1) == labels) & known).sum()), int(known.sum())]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def exact_norm(module, x):
    return x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight


def adapted(base, settings=None):
    recipe = recipes.load(
        None, {"lora.rank": 3, "kind": "activated", "training.precision": "float32"} | (settings or {})
    )
    tokens = load_tokens(base)
    model = lora.attach(lora.open_base(base, recipe), recipe, invocation("conversation/brief", tokens.template, tokens))
    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):  # which computes in float32, whatever it is given
            module.forward = partial(exact_norm, module)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:  # begins as zero, which would hide much
                p.normal_(0, 0.3)
    return recipe, tokens, model


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"lora.targets": "q_proj,v_proj,down_proj", "lora.rslora": True}),
        ("llama", {"training.gradient_checkpointing": True}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("mistral", {}),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("attention", [_Each, _Together])
def test_loss_and_gradients_are_those_of_peft(tmp_path, family, settings, tied, attention):
    base = make_base(tmp_path / "base", tied=tied, spread=0.2, family=family)
    recipe, tokens, model = adapted(base, settings)
    assert obstacle(base, recipe) == ""
    edits = edits_of(tokens)
    loss, counts = peft_pass(model, edits, tokens.pad)
    expected = gradients(model, loss)
    packed = pack(edits)
    assert len(packed.begin_ids) < 0.7 * sum(edit.request for edit in edits)  # much is shared
    quick = Pass(model, torch.float64, recipe.training.gradient_checkpointing)
    quick.attention = attention
    ours, ours_counts = quick(packed)
    found = gradients(model, ours)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-9) and ours_counts.tolist() == counts
    assert found.keys() == expected.keys() and all(grad.abs().max() > 0 for grad in expected.values())
    for name, grad in expected.items():
        assert torch.allclose(found[name], grad, atol=1e-7 * grad.abs().max().item(), rtol=1e-6), name
    again, _ = peft_pass(model, edits, tokens.pad)  # the modules still hold their weights
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)

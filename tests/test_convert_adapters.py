"""PEFT adapters: merged they equal PEFT's own merge, alone they equal PEFT beside the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import convert_models as models

from mal_convert import convert
from mal_convert.adapter import read_adapter
from mal_convert.libllama import opened
from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.gguf_file import read_header

PROMPT = "I'm sorry to hear that your parcel is late."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny-llama"
    path.mkdir()
    models.llama(path)
    return path


def peft_logits(adapted: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    import torch

    with torch.no_grad():
        return adapted(input_ids=torch.tensor([ids])).logits[0].numpy()


def prompt_ids(base: Path) -> list[int]:
    return models.greedy(base, PROMPT, 1)[0]


SETTINGS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}},
    "dora": {"use_dora": True},
    "tied embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "tied head": {"target_modules": ["lm_head", "gate_proj"]},
    "tied, both changed alike": {"target_modules": ["embed_tokens", "o_proj"], "ensure_weight_tying": True},
    "saved modules": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_merged_adapter_computes_what_peft_computes(base: Path, tmp_path: Path, name: str) -> None:
    adapted = models.adapter(base, tmp_path / "adapter", **SETTINGS[name])
    ids = prompt_ids(base)
    expected = peft_logits(adapted, ids)
    report = convert(tmp_path / "adapter", tmp_path / "out", ["f32", "q8_0"], base=str(base))
    with opened(report.outputs[0].path) as model:
        assert np.abs(model.logits(ids) - expected).max() < 1e-3 * expected.std()


@pytest.mark.parametrize("name", ["plain", "rslora", "patterns", "dora"])
def test_merged_tensors_equal_merge_and_unload(base: Path, tmp_path: Path, name: str) -> None:
    """Bytes differ by the order of summation alone: within two units in the last place of float32."""
    models.adapter(base, tmp_path / "adapter", **SETTINGS[name])
    import torch
    from peft import AutoPeftModelForCausalLM

    merged = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).merge_and_unload()
    shutil.copytree(base, tmp_path / "merged")
    merged.save_pretrained(tmp_path / "merged")
    ours = convert(tmp_path / "adapter", tmp_path / "a", ["f32"], verify=False).outputs[0].path
    other = convert(tmp_path / "merged", tmp_path / "b", ["f32"], verify=False).outputs[0].path
    for mine, theirs in zip(read_header(ours).tensors, read_header(other).tensors, strict=True):
        found, expected = (
            np.memmap(path, np.float32, "r", read_header(path).data_offset + t.offset, t.elements)
            for path, t in ((ours, mine), (other, theirs))
        )
        assert mine.name == theirs.name
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    import torch

    base = tmp_path / "base"
    base.mkdir()
    models.llama(base, dtype="bfloat16")
    adapted = models.adapter(base, tmp_path / "adapter")
    exact = adapted.merge_and_unload().model.layers[0].self_attn.v_proj.weight.to(torch.bfloat16)
    path = convert(tmp_path / "adapter", tmp_path / "out", ["bf16"], base=str(base)).outputs[0].path
    header = read_header(path)
    tensor = next(t for t in header.tensors if t.name == "blk.0.attn_v.weight")
    found = np.memmap(path, np.int16, "r", header.data_offset + tensor.offset, tensor.elements)
    # Sums made in another order fall on the other side of a rounding boundary now and then, never further.
    steps = np.abs(found.astype(int) - exact.contiguous().view(torch.int16).numpy().reshape(-1).astype(int))
    assert steps.max() <= 1
    assert (steps > 0).mean() < 1e-3


@pytest.mark.parametrize("name", ["plain", "rslora", "patterns"])
def test_an_adapter_file_computes_what_peft_computes(base: Path, tmp_path: Path, name: str) -> None:
    adapted = models.adapter(base, tmp_path / "adapter", **SETTINGS[name])
    ids = prompt_ids(base)
    expected = peft_logits(adapted, ids)
    whole = convert(base, tmp_path / "base.gguf", ["f32"]).outputs[0].path
    report = convert(tmp_path / "adapter", tmp_path / "lora.gguf", [], adapter_only=True)
    with opened(whole) as model, model.adapter(report.outputs[0].path):
        assert np.abs(model.logits(ids) - expected).max() < 1e-3 * expected.std()


def test_an_adapter_in_half_the_room_computes_nearly_the_same(base: Path, tmp_path: Path) -> None:
    """Q8_0 where rows fill its blocks, F16 where the rank leaves them too short."""
    adapted = models.adapter(base, tmp_path / "adapter")
    ids = prompt_ids(base)
    expected = peft_logits(adapted, ids)
    whole = convert(base, tmp_path / "base.gguf", ["f32"]).outputs[0].path
    (small,) = convert(tmp_path / "adapter", tmp_path / "q8.gguf", ["q8_0"], adapter_only=True).outputs
    types = {(t.name.rpartition(".")[2], t.shape[0] % 32 == 0, t.type_name) for t in read_header(small.path).tensors}
    assert {kind for _, full, kind in types if full} == {"Q8_0"}
    assert {kind for _, full, kind in types if not full} == {"F16"}
    with opened(whole) as model, model.adapter(small.path):
        # Layers of random weights amplify what is rounded, in a few places a lot.
        assert np.median(np.abs(model.logits(ids) - expected)) < 0.05 * expected.std()


def test_an_activated_adapter_says_what_switches_it_on(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "adapter", alora_invocation_tokens=[5, 7, 9])
    path = convert(tmp_path / "adapter", tmp_path / "out", ["f16"], adapter_only=True).outputs[0].path
    assert read_header(path).metadata["adapter.alora.invocation_tokens"] == (5, 7, 9)
    assert path.name == "Adapter-F16-LoRA.gguf"
    with pytest.raises(ModelError, match="cannot be merged; convert it with --adapter-only"):
        convert(tmp_path / "adapter", tmp_path / "out", ["f16"])


def _set(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD = [
    (lambda f: _set(f, peft_type="IA3"), ModelError, "of type 'IA3'; only LORA"),
    (lambda f: _set(f, lora_bias=True), ModelError, "uses lora_bias"),
    (lambda f: _set(f, init_lora_weights="pissa_niter_4"), ModelError, "started from pissa_niter_4"),
    (lambda f: _set(f, bias="all"), ModelError, "trained biases"),
    (lambda f: _set(f, use_dora=True), ModelError, "DoRA"),
    (lambda f: _set(f, lora_alpha="much"), FileProblem, "lora_alpha is 'much'"),
    (lambda f: _set(f, alpha_pattern={"((": 3}), FileProblem, "pattern"),
    (lambda f: _set(f, base_model_name_or_path="/nowhere"), FileProblem, "no such file or folder: /nowhere"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), FileProblem, "adapter_model.safetensors is missing"),
]


@pytest.mark.parametrize("adapter_only", [False, True])
@pytest.mark.parametrize(("harm", "error", "message"), BAD)
def test_bad_adapters(
    base: Path, tmp_path: Path, harm: Any, error: type[MalError], message: str, adapter_only: bool
) -> None:
    models.adapter(base, tmp_path / "adapter")
    harm(tmp_path / "adapter")
    with pytest.raises(error, match=message):
        convert(tmp_path / "adapter", tmp_path / "out", ["f16"], adapter_only=adapter_only)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_another_base_is_noticed(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "adapter")
    other = tmp_path / "other"
    other.mkdir()
    models.FAMILIES["qwen3"](other)
    for alone in (False, True):
        with pytest.raises(ModelError, match=r"trained on"):
            convert(tmp_path / "adapter", tmp_path / "out", ["f16"], base=str(other), adapter_only=alone)


def test_a_quantized_base_is_refused(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "adapter")
    other = Path(shutil.copytree(base, tmp_path / "base"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelError, match=r"quantized already .* merge an adapter into it, would round twice"):
        convert(tmp_path / "adapter", tmp_path / "out", ["f16"], base=str(other))


def test_what_an_adapter_file_cannot_hold(base: Path, tmp_path: Path) -> None:
    for name, message in (("dora", "DoRA"), ("saved modules", "whole modules"), ("tied head", "no such tensor")):
        models.adapter(base, tmp_path / name, **SETTINGS[name])
        with pytest.raises(ModelError, match=message):
            convert(tmp_path / name, tmp_path / "out", ["f16"], adapter_only=True)
    with pytest.raises(UsageError, match="no adapter_config.json"):
        convert(base, tmp_path / "out", ["f16"], adapter_only=True)
    with pytest.raises(UsageError, match="not as Q4_K_M"):
        convert(tmp_path / "dora", tmp_path / "out", ["q4_k_m"], adapter_only=True)


def test_scales_and_pairs(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "adapter", **SETTINGS["patterns"])
    pairs = read_adapter(tmp_path / "adapter").low_rank
    layer = "model.layers.1.self_attn."
    assert (pairs[f"{layer}q_proj.weight"].rank, pairs[f"{layer}q_proj.weight"].scale) == (4, 4.0)
    assert pairs[f"{layer}v_proj.weight"].scale == 3 / 8
    assert pairs["model.layers.0.self_attn.v_proj.weight"].scale == 2.0

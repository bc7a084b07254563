"""The forms a model comes in: shards, configs of every age, a text model with a vision part, grown vocabularies."""

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
from mal_convert.job import prepare
from mal_convert.libllama import opened
from mal_convert.reference import Reference
from mal_convert.verify import logits_error
from metaaligner_lite.errors import FileProblem, ModelError


def made(family: str, folder: Path) -> Path:
    folder.mkdir()
    models.FAMILIES[family](folder)
    return folder


def change(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def test_shards_make_the_same_tensors_and_a_missing_one_is_named(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = made("qwen3", tmp_path / "whole")
    shards = Path(shutil.copytree(whole, tmp_path / "shards"))
    (shards / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(shards, max_shard_size="1MB")
    parts = sorted(shards.glob("model-*.safetensors"))
    assert len(parts) > 2
    one, many = (convert(folder, tmp_path / f"{folder.name}.gguf", ["f16"]) for folder in (whole, shards))
    assert models.tensor_bytes(one.outputs[0].path) == models.tensor_bytes(many.outputs[0].path)
    parts[1].unlink()
    with pytest.raises(FileProblem, match=f"1 of {len(parts)} shards are missing .*{parts[1].name}"):
        convert(shards, tmp_path / "x.gguf", ["f16"])


def before_transformers_5(config: dict[str, Any]) -> dict[str, Any]:
    """The same config as released models have it: rotary settings spread over the file."""
    rope = config.pop("rope_parameters")
    full = rope.get("full_attention", rope)
    if "sliding_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_theta"] = full.pop("rope_theta")
    if "partial_rotary_factor" in full:
        config["partial_rotary_factor"] = full.pop("partial_rotary_factor")
    config["rope_scaling"] = full if full["rope_type"] != "default" else None
    if full["rope_type"] == "longrope":
        config["original_max_position_embeddings"] = full.pop("original_max_position_embeddings")
        full["type"] = full.pop("rope_type")
    return config


@pytest.mark.parametrize(
    "family", ["llama-2", "llama-3.2", "llama-linear", "qwen2.5-yarn", "gemma-3", "gemma-3-4b", "phi-3.5", "phi-4-mini"]
)
def test_configs_of_older_transformers_mean_the_same(tmp_path: Path, family: str) -> None:
    folder = made(family, tmp_path / "model")
    new = prepare(folder, None, ["f32"])
    change(folder, before_transformers_5(config_of(folder)))
    old = prepare(folder, None, ["f32"])
    assert old.fields == new.fields
    assert old.steps == new.steps


def test_the_text_part_of_a_model_that_also_sees(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    plain = made("gemma-3-4b", tmp_path / "plain")
    both = Path(shutil.copytree(plain, tmp_path / "both"))
    change(both, {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config_of(plain)})
    weights = {f"language_model.{name}": tensor for name, tensor in load_file(plain / "model.safetensors").items()}
    weights["vision_tower.vision_model.embeddings.patch_embedding.weight"] = np.ones((4, 4), np.float32)
    weights["multi_modal_projector.mm_input_projection_weight"] = np.ones((4, 4), np.float32)
    save_file(weights, both / "model.safetensors")
    one, other = (convert(folder, tmp_path / f"{folder.name}.gguf", ["f16"]) for folder in (plain, both))
    assert models.tensor_bytes(one.outputs[0].path) == models.tensor_bytes(other.outputs[0].path)


def test_an_adapter_with_a_grown_vocabulary(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, adapter = made("llama-2", tmp_path / "base"), tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0] + 5
    torch.manual_seed(0)
    model.resize_token_embeddings(rows, mean_resizing=False)
    settings = LoraConfig(r=4, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapted = get_peft_model(model, settings).eval()
    adapted.save_pretrained(adapter)
    ids = models.greedy(base, "A parcel", 1)[0]
    with torch.no_grad():
        expected = adapted(input_ids=torch.tensor([ids])).logits[0].numpy()
    with opened(convert(adapter, tmp_path / "x.gguf", ["f32"], base=str(base)).outputs[0].path) as found:
        logits = found.logits(ids)
    assert logits.shape[1] == rows
    assert np.abs(logits - expected).max() < 1e-3 * expected.std()


def test_rounding_that_a_model_amplifies_is_told_from_a_fault(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    models.llama(base, dtype="bfloat16")
    models.adapter(base, tmp_path / "adapter")
    job = prepare(tmp_path / "adapter", None, ["bf16"], base=str(base))
    path = convert(tmp_path / "adapter", tmp_path / "x.gguf", ["bf16"], base=str(base)).outputs[0].path
    ids = models.greedy(base, "I'm sorry that your parcel is late.", 1)[0]
    with opened(path) as model:
        logits = model.logits(ids)
    exact, rounded = Reference(job.model).logits(ids), Reference(job.model, "BF16").logits(ids)
    assert np.abs(logits - rounded).mean() < np.abs(logits - exact).mean()
    far = exact + 0.2 * np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32) * exact.std()
    assert logits_error("BF16", logits, far, lambda: rounded)[0] > 0.1
    with pytest.raises(ModelError, match="computes something else"):
        logits_error("BF16", logits, far, lambda: far)
    with pytest.raises(ModelError, match="computes something else"):
        logits_error("F32", logits, far, lambda: rounded)

"""A GGUF file as the base of a training: its numbers, its tokenizer, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch  # noqa: TID253
from tiny_train import SMOKE, make_base, one_thread, some_rows, write_rows  # noqa: F401 (the fixture)

import mal_convert
from mal_convert.libllama import opened
from mal_train import gguf_base
from mal_train import recipe as recipes
from mal_train.encode import load_tokens
from mal_train.gguf_base import unpack
from mal_train.run import train
from metaaligner_lite import manifest
from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.gguf_config import hf_config
from metaaligner_lite.gguf_file import base_fingerprint, read_header

TYPES = "F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_1 Q5_0 Q4_K_M Q4_1 Q4_0 Q3_K_M Q2_K IQ4_NL".split()
TEXTS = (
    "I'm sorry; parcel 1234 is a week late.\n\n  Where?",
    "<|im_start|>user\nThe <|im_end|> stays text: café 中文 😀",
)


def gguf_of(folder, out, *types):
    report = mal_convert.convert(folder, out, list(types), verify=False)
    return {output.type: output.path for output in report.outputs}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One tiny Llama in every type."""
    folder = tmp_path_factory.mktemp("gguf")
    return gguf_of(make_base(folder / "base", hidden=256, spread=0.1), folder, *TYPES)


def llama_cpp_says(path, ids):
    with opened(path) as model:
        return model.logits(ids)


def transformers_says(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def same_tokens(path, folder):
    ours = load_tokens(folder)
    with gguf_base.vocabulary(path) as theirs:
        assert ours.specials == theirs.specials and ours.bos == theirs.bos and ours.eos == theirs.eos_text
        assert ours.template == theirs.template
        for text in TEXTS:
            assert ours.encode_text(text) == theirs.encode_text(text)


@pytest.mark.parametrize("kind", TYPES)
def test_the_numbers_and_tokens_are_those_that_llama_cpp_runs(files, tmp_path, kind):
    folder = unpack(files[kind], tmp_path / "base")
    ids = list(range(4, 40))
    ours, theirs = transformers_says(folder, ids), llama_cpp_says(files[kind], ids)
    # llama.cpp rounds activations to what the weights are stored in, and to 8 bits for quantized ones.
    room = {"F32": 1e-5, "F16": 3e-3, "BF16": 1e-2}.get(kind, 6e-2)
    assert np.linalg.norm(ours - theirs) < room * np.linalg.norm(theirs)
    same_tokens(files[kind], folder)
    assert unpack(files[kind], folder) == folder  # what is whole is not made again


@pytest.mark.parametrize(
    ("family", "tied", "bos"), [("llama", False, True), ("qwen3", True, False), ("mistral", True, False)]
)
def test_families(tmp_path, family, tied, bos):
    base = make_base(tmp_path / "base", tied=tied, bos=bos, family=family, spread=0.1)
    (path,) = gguf_of(base, tmp_path, "F32").values()
    folder, ids = unpack(path, tmp_path / "numbers"), list(range(4, 40))
    assert np.abs(transformers_says(folder, ids) - transformers_says(base, ids)).max() < 1e-5
    same_tokens(path, folder)


def test_llama_3_rotary_factors_are_told_to_transformers(tmp_path):
    base = make_base(tmp_path / "base", hidden=256, spread=0.1)
    config = json.loads((base / "config.json").read_text())
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    config["rope_parameters"] = rope | {"original_max_position_embeddings": 8192}
    (base / "config.json").write_text(json.dumps(config))
    (path,) = gguf_of(base, tmp_path, "F32").values()
    assert hf_config(read_header(path))["rope_parameters"] == config["rope_parameters"]


def test_all_quantizations_of_a_base_have_one_fingerprint_and_another_base_another(files, tmp_path):
    found = {base_fingerprint(read_header(path)) for path in files.values()}
    assert len(found) == 1 and len(found.pop()) == 64
    for norm in (1.01, 1.0):  # a norm of one weight, a little off
        folder = make_base(tmp_path / f"other-{norm}", hidden=256, spread=0.1)
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][7] = norm
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (path,) = gguf_of(folder, tmp_path / f"gguf-{norm}", "Q8_0").values()
        same = base_fingerprint(read_header(path)) == base_fingerprint(read_header(files["Q4_0"]))
        assert same == (norm == 1.0)


def test_an_adapter_of_a_gguf_base_from_training_to_file(files, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", some_rows(6))
    settings = SMOKE | {"kind": "activated", "layout": "conversation/brief", "data.max_length": 512}
    trained = train(files["Q4_0"], data, tmp_path / "out", recipes.load(None, settings))
    assert trained.next_command == f"mal convert {trained.adapter} --base {files['Q4_0']} --adapter-only"
    made = manifest.read(trained.adapter)
    assert made and made.fingerprint == base_fingerprint(read_header(files["Q4_0"])) and made.base == files["Q4_0"].name
    assert sorted(path.name for path in trained.out.iterdir() if path.is_dir()) == ["adapter"]
    report = mal_convert.convert(trained.adapter, tmp_path / "a.gguf", ["F16"], adapter_only=True)  # base: as it names
    text = read_header(report.outputs[0].path).text(manifest.GGUF_KEY)
    assert manifest.Manifest.from_json(text, "").fingerprint == made.fingerprint
    other = make_base(tmp_path / "other", hidden=256)
    tensors_off(other)
    (path,) = gguf_of(other, tmp_path / "other-gguf", "Q8_0").values()
    with pytest.raises(ModelError, match="is not the base that .* was trained on"):
        mal_convert.convert(trained.adapter, tmp_path / "b.gguf", ["F16"], base=str(path), adapter_only=True)


def tensors_off(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_merged_aligner_of_a_gguf_base(files, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", some_rows(6))
    trained = train(files["Q8_0"], data, tmp_path / "out", recipes.load(None, SMOKE | {"kind": "merged"}))
    assert trained.merged and json.loads((trained.merged / "config.json").read_text())["model_type"] == "llama"
    report = mal_convert.convert(trained.merged, None, ["Q8_0"])
    assert report.outputs[0].path.is_file()
    assert "whose tensors are Q8_0 (15), F32 (5)" in (trained.out / "report.md").read_text()
    with pytest.raises(UsageError, match="is a GGUF file: an adapter is merged into its base's"):
        mal_convert.convert(trained.adapter, tmp_path / "x.gguf", ["F16"], base=str(files["Q8_0"]))


def rewritten(source, path, old, new):
    raw = source.read_bytes()
    assert raw.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(raw.replace(old, new, 1))
    return path


def test_what_cannot_be_a_base_is_one_clear_error(files, tmp_path):
    with pytest.raises(FileProblem, match="no such file"):
        unpack(tmp_path / "absent.gguf", tmp_path / "x")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files["Q4_0"].read_bytes()[:-5000])
    with pytest.raises(FileProblem, match="is cut short"):
        unpack(cut, tmp_path / "x")
    (tmp_path / "page.gguf").write_text("<html> not found </html> and so on")
    with pytest.raises(FileProblem, match="expected b'GGUF'"):
        unpack(tmp_path / "page.gguf", tmp_path / "x")
    header = read_header(files["F32"])
    with pytest.raises(ModelError, match="of the architecture 'mamba'; as a base in GGUF llama"):
        hf_config(dataclasses.replace(header, metadata={**header.metadata, "general.architecture": "mamba"}))
    with pytest.raises(ModelError, match="a mixture of experts"):
        hf_config(dataclasses.replace(header, metadata={**header.metadata, "llama.expert_count": 8}))
    strange = rewritten(files["F32"], tmp_path / "strange.gguf", b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")
    with pytest.raises(ModelError, match=r"is no plain llama: it holds 'blk.1.ffn_xx.weight'"):
        unpack(strange, tmp_path / "x")
    pre = struct.pack("<Q", 5) + b"gpt-2"
    unknown = rewritten(files["F32"], tmp_path / "pre.gguf", pre, struct.pack("<Q", 5) + b"bloom")
    with pytest.raises(ModelError, match="the pre-tokenizer 'bloom' cannot be rebuilt"):
        unpack(unknown, tmp_path / "x")
    other = rewritten(files["F32"], tmp_path / "other.gguf", pre, struct.pack("<Q", 5) + b"qwen2")
    with pytest.raises(MalError, match="reads otherwise at token|cannot be rebuilt"):
        wrongly_cut(other, tmp_path / "x")
    assert not (tmp_path / "x" / "config.json").exists()


def wrongly_cut(path, folder):
    """As if llama.cpp changed how it cuts text for a pre-tokenizer: here single characters are cut out."""
    with mock.patch.dict(gguf_base._CUTS, {"qwen2": "."}):
        unpack(path, folder)


def test_a_type_that_gives_no_numbers_is_refused(files, tmp_path, monkeypatch):
    import gguf.quants

    def cannot(*_):
        raise NotImplementedError("Dequantization for IQ9 is not yet implemented")

    monkeypatch.setattr(gguf.quants, "dequantize", cannot)
    with pytest.raises(
        ModelError, match="cannot be turned into numbers .*; take another quantization of the same model"
    ):
        unpack(files["Q4_0"], tmp_path / "x")


def test_an_interrupted_unpacking_is_done_again(files, tmp_path):
    folder = shutil.copytree(unpack(files["Q4_0"], tmp_path / "whole"), tmp_path / "half")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert transformers_says(unpack(files["Q4_0"], folder), [4, 5]).shape == (
        2,
        len(load_tokens(folder).tokenizer.get_vocab()),
    )

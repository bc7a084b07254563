"""Every supported family on small random models: token ids, logits and greedy tokens equal transformers'."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

from mal_convert import convert
from mal_convert.libllama import opened
from mal_convert.model import open_model
from mal_convert.probe import PROBE
from mal_convert.reference import Reference

PROMPT = "I'm sorry to hear that your parcel is late."


@pytest.fixture(scope="module", params=models.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / str(request.param)
    path.mkdir()
    models.FAMILIES[request.param](path)
    return path


def test_the_same_model_in_llama_cpp_numpy_and_transformers(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    ids, expected = models.greedy(folder, PROMPT, 64)
    target = models.logits(folder, ids)
    scale = target.std()
    assert np.abs(Reference(open_model(folder)).logits(ids) - target).max() < 1e-4 * scale
    report = convert(folder, tmp_path, ["f32", "q4_k_m"])
    rounding = 5e-3 if "gemma" in folder.name else 1e-3  # llama.cpp reads GELU from a table of float16
    with opened(report.outputs[0].path) as model:
        assert np.abs(model.logits(ids) - target).max() < rounding * scale
        assert model.greedy(ids, 64) == expected
        text = unicodedata.normalize("NFC", PROBE)  # Qwen composes characters, llama.cpp does not
        theirs = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        assert model.tokenize(text, parse_special=True) == theirs

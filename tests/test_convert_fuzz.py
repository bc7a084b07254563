"""Damaged files: each is a clean error or, where the damage does not matter, a conversion that passes its checks."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models
import fuzz_convert as fuzz
from fuzz_convert import damage_bytes, damage_json

from mal_convert import convert
from mal_convert.adapter import read_adapter
from mal_convert.checkpoint import read_tensors
from mal_convert.model import open_model
from mal_convert.plan import plan_tensors
from mal_convert.vocab import read_vocabulary
from metaaligner_lite.errors import MalError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "tiny"
    path.mkdir()
    models.llama(path)
    return path


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "pieces"
    path.mkdir()
    models.FAMILIES["llama-2"](path)
    return path


def survives(step: Callable[[], object]) -> None:
    """Run a step; anything but success or a MalError is a fault of ours."""
    try:
        step()
    except MalError as error:
        assert len(str(error)) > 10


def plan(folder: Path) -> None:
    model = open_model(folder)
    vocabulary = read_vocabulary(model.tokenizer, model.config.raw)
    plan_tensors(model, len(vocabulary.tokens))


@pytest.mark.parametrize("seed", range(4))
def test_safetensors_headers(tmp_path: Path, seed: int) -> None:
    small = {f"model.layers.{i}.weight": np.ones((4, 8), np.float32) for i in range(5)}
    from safetensors.numpy import save

    raw = save(small, metadata={"format": "pt"})
    header = 8 + int.from_bytes(raw[:8], "little")
    chance = random.Random(seed)
    for _ in range(500):
        (tmp_path / "model.safetensors").write_bytes(damage_bytes(raw, chance, header))
        survives(lambda: read_tensors(tmp_path))
    for _ in range(250):
        damaged = json.dumps(damage_json(json.loads(raw[8:header]), chance)).encode()
        content = len(damaged).to_bytes(8, "little") + damaged + raw[header:]
        (tmp_path / "model.safetensors").write_bytes(content)
        survives(lambda: read_tensors(tmp_path))


FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["folder", "pieces"])
def test_json_files(request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: str) -> None:
    source = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "source"))
    raw = (source / name).read_text(encoding="utf-8")
    chance = random.Random(name)
    for _ in range(150):
        damaged = json.dumps(damage_json(json.loads(raw), chance))
        (source / name).write_text(damaged, encoding="utf-8")
        survives(lambda: plan(source))
    for _ in range(100):
        (source / name).write_bytes(damage_bytes(raw.encode(), chance, len(raw)))
        survives(lambda: plan(source))


def test_adapter_configs(folder: Path, tmp_path: Path) -> None:
    models.adapter(folder, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    raw, chance = path.read_text(), random.Random(0)
    for _ in range(300):
        path.write_text(json.dumps(damage_json(json.loads(raw), chance)))
        survives(lambda: read_adapter(tmp_path / "adapter"))


def test_sentencepiece_models(pieces: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pieces, tmp_path / "source"))
    (source / "tokenizer.json").unlink()
    raw, chance = (source / "tokenizer.model").read_bytes(), random.Random(0)
    for _ in range(100):
        (source / "tokenizer.model").write_bytes(damage_bytes(raw, chance, len(raw)))
        survives(lambda: plan(source))


def whole(source: Path, name: str, kind: str, cases: int, seed: int) -> None:
    """Whole conversions of damaged folders and GGUF files, in a process of their own: llama.cpp may not end it."""
    script = f"""
import json, random, shutil, sys
from pathlib import Path
from fuzz_convert import damage_bytes, damage_json
from test_convert_fuzz import survives
from mal_convert import convert
source, chance = Path({str(source)!r}), random.Random({seed})
path = source if source.is_file() else source / {name!r}
raw = path.read_bytes()
target = source.parent / "target.gguf"
for case in range({cases}):
    if {kind!r} == "json":
        path.write_text(json.dumps(damage_json(json.loads(raw), chance)))
    else:
        path.write_bytes(damage_bytes(raw, chance, {3000 if name == "gguf" else 100000}))
    (source.parent / "case").write_text(str(case))
    survives(lambda: convert(source, target, ["q8_0"], force=True))
    assert not list(source.parent.glob(".*.part"))
"""
    folder = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, cwd=folder)
    case = (source.parent / "case").read_text()
    assert run.returncode == 0, f"case {case}: {run.returncode} {run.stderr[-1500:]}"


@pytest.mark.parametrize("cases", [15, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_whole_conversions(folder: Path, tmp_path: Path, name: str, cases: int) -> None:
    whole(Path(shutil.copytree(folder, tmp_path / "source")), name, "json", cases, seed=cases)


@pytest.mark.parametrize("cases", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_requantizing_damaged_files(folder: Path, tmp_path: Path, cases: int) -> None:
    source = convert(folder, tmp_path / "source.gguf", ["f16"]).outputs[0].path
    whole(source, "gguf", "bytes", cases, seed=cases)


@pytest.mark.parametrize(("cases", "whole"), [(250, 3), pytest.param(5000, 100, marks=pytest.mark.slow)])
def test_every_reader(cases: int, whole: int) -> None:
    found = fuzz.run(cases, seed=cases, whole=whole)
    assert not found["faults"], found["faults"]
    assert found["memory"] < fuzz.BYTES
    assert found["slowest"] < fuzz.SECONDS
    assert found["counts"]["refused"] + found["counts"]["read"] == cases + whole
    assert found["counts"]["refused"] > cases // 3  # the damage is felt

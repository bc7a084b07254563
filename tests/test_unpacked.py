"""A quantized model runs from a copy of its weights as F16, where that is faster: made once, whole, and never in the
way of a run."""

import os
import threading
import time

import gguf
import numpy as np
import pytest
import tiny
from gguf import GGMLQuantizationType as Type

from metaaligner_lite.errors import FileProblem
from metaaligner_lite.gguf_file import base_fingerprint, read_header
from metaaligner_lite.llama import unpacked
from metaaligner_lite.llama.context import Context
from metaaligner_lite.llama.engine import Request, open_engine
from metaaligner_lite.llama.model import open_model
from metaaligner_lite.paths import cache_dir
from metaaligner_lite.pieces import Piece


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MAL_HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path):
    return tiny.write_model(tmp_path / "q4_1.gguf", quantization=Type.Q4_1)


def copies():
    folder = cache_dir() / "unpacked"
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize(
    ("quantization", "by_itself", "if_asked"),
    [
        (Type.Q4_1, True, True),
        (Type.Q5_0, True, True),
        (Type.Q5_1, True, True),
        (Type.Q4_0, False, True),
        (Type.Q8_0, False, True),
        (Type.F16, False, False),
        (Type.BF16, False, False),
        (Type.F32, False, False),
    ],
)
def test_which_types_are_copied(tmp_path, quantization, by_itself, if_asked):
    header = read_header(tiny.write_model(tmp_path / "model.gguf", quantization=quantization))
    assert unpacked.suits(header, 0) is by_itself
    assert unpacked.can_be_unpacked(header, 0) is if_asked


def test_large_models_and_those_on_a_gpu_are_not(path, monkeypatch):
    header = read_header(path)
    with monkeypatch.context() as patched:
        patched.setattr(unpacked, "_LARGEST", 2 * unpacked._elements(header) - 1)
        assert not unpacked.suits(header, 0)
    monkeypatch.setattr(unpacked.library(), "llama_supports_gpu_offload", lambda: True)
    assert not unpacked.suits(header, -1)
    assert unpacked.suits(header, 0)


def test_the_copy_holds_the_same_weights(path):
    header = read_header(path)
    copy = unpacked.unpacked(header)
    ours, theirs = ({tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors} for file in (path, copy))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(gguf.dequantize(theirs[name].data, theirs[name].tensor_type), weights, rtol=2**-10)
    assert base_fingerprint(read_header(copy)) == base_fingerprint(header)
    assert read_header(copy).metadata.keys() >= header.metadata.keys() - {"general.file_type"}


def test_it_is_made_once_and_said_once(path):
    said = []
    first = unpacked.unpacked(read_header(path), said.append)
    stamp = first.stat().st_mtime_ns
    assert unpacked.unpacked(read_header(path), said.append) == first
    assert (len(said), first.stat().st_mtime_ns, copies()) == (1, stamp, [first])
    assert "q4_1.gguf: kept as F16" in said[0]


def test_another_model_of_the_same_name_has_its_own(path, tmp_path):
    first = unpacked.unpacked(read_header(path))
    other = tiny.write_model(tmp_path / "q4_1.gguf", quantization=Type.Q4_1, seed=1)
    assert unpacked.unpacked(read_header(other)) != first


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-40], lambda data: b"", lambda _: b"x"])
def test_a_damaged_copy_is_made_again(path, damage):
    copy = unpacked.unpacked(read_header(path))
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))
    assert unpacked.unpacked(read_header(path)) == copy
    assert (copy.read_bytes(), copies()) == (whole, [copy])


def fails(lib):
    return lambda *_: 1


def writes_half(lib):
    def write(source, target, params, real=lib.llama_model_quantize):
        status = real(source, target, params)
        with open(target, "r+b") as file:
            file.truncate(200)
        return status

    return write


@pytest.mark.parametrize(("writer", "why"), [(fails, "could not write"), (writes_half, "damaged")])
def test_where_none_can_be_written_the_model_runs_as_it_is(path, monkeypatch, writer, why):
    lib = unpacked.library()
    monkeypatch.setattr(lib, "llama_model_quantize", writer(lib))
    said = []
    with open_engine(path, say=said.append) as engine:
        assert not engine.model.unpacked
    assert why in said[-1]
    assert "runs as it is" in said[-1]
    assert copies() == []


def test_a_damaged_model_is_never_given_to_the_writer(path, monkeypatch):
    monkeypatch.setattr(unpacked.library(), "llama_model_quantize", lambda *_: pytest.fail("it was"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileProblem, match="is cut short"):
        open_engine(path)
    assert copies() == []


def test_a_model_that_f16_cannot_hold_runs_as_it_is(tmp_path):
    """A norm of a million drives what the last matrices multiply beyond 65,504."""
    path = tiny.write_model(tmp_path / "loud.gguf", quantization=Type.Q4_1, norm=1e6)
    said = []
    with open_engine(path, say=said.append) as engine:
        assert not engine.model.unpacked
    assert "says something else as F16" in said[-1]
    assert copies() == []


def test_a_full_disk_and_a_folder_that_cannot_be_made(path, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(unpacked, "_SPARE", 1 << 60)
    assert unpacked.unpacked(read_header(path), said.append) == path
    assert "MB are free" in said[0]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAL_HOME", str(tmp_path / "file"))
    assert unpacked.unpacked(read_header(path), said.append) == path
    assert len(said) == 2


def test_what_a_killed_run_left_is_cleared(path):
    folder = cache_dir() / "unpacked"
    folder.mkdir(parents=True)
    for name, age in (("old", unpacked._ABANDONED + 60), ("new", 0)):
        (folder / f".model.gguf.{name}").write_text("x")
        os.utime(folder / f".model.gguf.{name}", (time.time() - age,) * 2)
    assert copies()[0].name == ".model.gguf.new"
    copy = unpacked.unpacked(read_header(path))
    assert copies() == [folder / ".model.gguf.new", copy]


def test_several_at_once(path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(unpacked.unpacked(read_header(path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == set(copies())
    assert len(copies()) == 1


@pytest.mark.parametrize(("asked", "runs"), [(None, True), (True, True), (False, False)])
def test_the_engine_says_what_it_runs_and_keeps_the_models_name(path, asked, runs):
    with open_engine(path, unpack=asked) as engine:
        assert engine.model.unpacked is runs
        assert engine.model.path == path
        written = engine.write([Request((Piece("Hello", content=True),))], max_tokens=8)
    assert written[0].text
    assert len(copies()) == runs


def test_its_logits_are_those_of_the_same_weights(path):
    """llama.cpp rounds what it multiplies with Q4_1 to 8 bits: with F16 the logits are nearer to exact ones."""
    logits = {}
    for unpack in (True, False):
        weights = unpacked.unpacked(read_header(path)) if unpack else None
        with open_model(path, repack=False, weights=weights) as model, Context(model, 64, threads=1) as context:
            tokens = model.encode_text("A short text.")
            context.extend([(0, tokens)])
            logits[unpack] = context.logits(-1)
    spread = logits[False].std()
    assert np.abs(logits[True] - logits[False]).max() < 0.1 * spread

"""Importance matrices: equal to what a second implementation sums, in llama.cpp's format, used and reported."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

from mal_convert import convert, preview
from mal_convert import imatrix as module
from mal_convert.checkpoint import F32
from mal_convert.libllama import opened
from mal_convert.model import open_model
from mal_convert.plan import gguf_name
from mal_convert.quantize import file_types, needs_matrix
from mal_convert.reference import Reference
from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.gguf_file import read_header

TEXT = "\n".join(models.CORPUS * 4)


@pytest.fixture(scope="module", params=["llama-3.2", pytest.param("qwen2-moe", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / str(request.param)
    path.mkdir()
    models.FAMILIES[request.param](path)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("f32") / "plain.gguf"
    return convert(folder, out, ["f32"], verify=False).outputs[0].path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


class Listening(Reference):
    """The reference, with the squares of what goes into each tensor."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_model(folder))
        self.sums: dict[str, tuple[Any, int]] = {}

    def _linear(self, x: F32, name: str) -> F32:
        before, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = before + (x.astype(np.float64) ** 2).sum(0), count + len(x)
        return super()._linear(x, name)


def chunks(plain: Path) -> list[Sequence[int]]:
    with opened(plain) as model:
        ids = model.tokenize(TEXT)
        bos = module._bos(model)
    step = module.CHUNK - (bos is not None)
    found = [ids[at : at + step] for at in range(0, len(ids) - step + 1, step)]
    return [([bos] if bos is not None else []) + part for part in found]


def test_the_sums_are_those_of_a_second_implementation(folder: Path, plain: Path, text: Path) -> None:
    matrix = module.compute(plain, text, lambda done, total: None)
    theirs = Listening(folder)
    parts = chunks(plain)
    assert matrix.chunks == len(parts) > 1
    for part in parts:
        theirs.logits(part)
    architecture, config = theirs.architecture, theirs.config
    seen = set()
    for name, (sums, count) in theirs.sums.items():
        at, row = name, 0
        if ".experts." in name:
            before, _, after = name.partition(".experts.")
            number, _, rest = after.partition(".")
            at, row = f"{before}.experts.{rest}", int(number)
        target = gguf_name(architecture, config, at)
        if target in matrix.sums:
            seen.add(target)
            # A mixture's router sends a token elsewhere now and then, where two scores are nearly equal.
            assert abs(matrix.counts[target].reshape(-1)[row] - count) <= 2
            assert np.allclose(matrix.sums[target][row], sums, rtol=0.02 if row or at != name else 1e-3)
    assert seen == set(matrix.sums)
    assert {n.rpartition(".")[0].rpartition(".")[2] for n in seen} >= {"attn_q", "attn_output"}


def test_it_is_kept_in_llama_cpps_format_and_read_again(plain: Path, text: Path, tmp_path: Path) -> None:
    matrix = module.compute(plain, text, lambda done, total: None)
    matrix.save(tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    assert header.text("general.type") == "imatrix"
    assert "general.architecture" not in header.metadata
    assert header.metadata["imatrix.datasets"] == ("words.txt",)
    assert (header.metadata["imatrix.chunk_count"], header.metadata["imatrix.chunk_size"]) == (matrix.chunks, 512)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for name, sums in matrix.sums.items():
        assert shapes[f"{name}.in_sum2"] == sums.shape[::-1]
        assert shapes[f"{name}.counts"] == (1, len(sums))
    again = module.read(tmp_path / "m.gguf")
    assert all(np.array_equal(again.values()[name], values) for name, values in matrix.values().items())


def legacy(matrix: module.Matrix) -> bytes:
    """The .dat form: means times calls, a number of calls."""
    parts = [struct.pack("<i", len(matrix.sums))]
    for name, values in matrix.values().items():
        raw = (values * 3).astype("<f4").tobytes()
        parts.append(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 3, values.size) + raw)
    return b"".join(parts) + struct.pack("<ii", 7, 5) + b"a.txt"


def test_files_of_both_forms_make_the_same_file_as_the_text(folder: Path, text: Path, tmp_path: Path) -> None:
    report = convert(folder, tmp_path / "one", ["iq4_xs", "q4_k_m"], imatrix=text)
    kept = tmp_path / "one" / "words-imatrix.gguf"
    matrix = module.read(kept)
    (tmp_path / "old.dat").write_bytes(legacy(matrix))
    assert (module.read(tmp_path / "old.dat").chunks, module.read(tmp_path / "old.dat").dataset) == (7, "a.txt")
    expected = models.tensor_bytes(report.outputs[0].path)
    again = convert(folder, tmp_path / "two", ["iq4_xs"], imatrix=kept)
    assert models.tensor_bytes(again.outputs[0].path) == expected
    third = convert(folder, tmp_path / "three", ["iq4_xs"], imatrix=tmp_path / "old.dat", verify=False)
    same = models.tensor_bytes(third.outputs[0].path)
    assert {name: kind for name, (kind, _, _) in same.items()} == {n: kind for n, (kind, _, _) in expected.items()}
    without = convert(folder, tmp_path / "four", ["iq4_xs"])
    assert models.tensor_bytes(without.outputs[0].path) != expected
    said = read_header(report.outputs[0].path).metadata
    assert said["quantize.imatrix.dataset"] == "words.txt"
    assert said["quantize.imatrix.entries_count"] == len(matrix.sums)
    # What it gains is told beside what the same type loses without it.
    assert report.checks[0].without_matrix == pytest.approx(without.checks[0].logits_error, rel=1e-4)
    assert without.checks[0].without_matrix is None
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [again.outputs[0].path.name]


def test_a_matrix_lowers_the_weighted_error(folder: Path, plain: Path, text: Path, tmp_path: Path) -> None:
    """What it is for: less error where inputs are large. The plain error may grow."""
    import gguf

    matrix = module.compute(plain, text, lambda done, total: None)
    weighted = {}
    for name, imatrix in (("with", text), ("without", None)):
        path = convert(plain, tmp_path / f"{name}.gguf", ["q2_k"], imatrix=imatrix, verify=False).outputs[0].path
        found, exact = models.tensor_bytes(path), models.tensor_bytes(plain)
        total = 0.0
        for tensor, values in matrix.values().items():
            kind, shape, raw = found[tensor]
            if kind in (0, 1) or len(shape) > 2:
                continue
            stored = np.frombuffer(raw, np.uint8).reshape(shape[1], -1)
            numbers = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType(kind))
            source = np.frombuffer(exact[tensor][2], np.float32).reshape(numbers.shape)
            total += float((((numbers - source) ** 2) * values).sum())
        weighted[name] = total
    assert weighted["with"] < weighted["without"]


def test_types_that_need_a_matrix(folder: Path, text: Path, tmp_path: Path) -> None:
    from metaaligner_lite.cli.convert import MATRIX_TYPES

    assert set(MATRIX_TYPES.split()) == {name for name in file_types() if needs_matrix(name)}
    with pytest.raises(UsageError, match="IQ2_XS needs an importance matrix: pass --imatrix with a text"):
        convert(folder, tmp_path, ["iq2_xs"])
    report = convert(folder, tmp_path, ["iq3_xxs"], imatrix=text)
    assert report.checks[0].without_matrix is None
    assert any(tensor.type_name == "IQ3_XXS" for tensor in read_header(report.outputs[0].path).tensors)
    assert preview(folder, tmp_path, ["iq2_xs"], imatrix=text).outputs


def test_what_is_no_matrix_and_no_text(folder: Path, plain: Path, text: Path, tmp_path: Path) -> None:
    def refused(error: type[MalError], message: str, given: Path, types: Sequence[str] = ("q4_k_m",)) -> None:
        with pytest.raises(error, match=message):
            convert(folder, tmp_path / "out", types, imatrix=given)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    short = tmp_path / "short.txt"
    short.write_text("Three words only.", encoding="utf-8")
    refused(UsageError, r"short.txt has \d+ tokens; an importance matrix takes 256 or more", short)
    refused(FileProblem, "cannot read .*missing.txt", tmp_path / "missing.txt")
    refused(FileProblem, "is a GGUF file of the type 'model', expected 'imatrix'", plain)
    refused(UsageError, "an importance matrix does nothing for F16", text, ["f16"])
    (tmp_path / "torn.dat").write_bytes(struct.pack("<ii", 3, 900) + bytes(40))
    refused(FileProblem, "no importance matrix, or damaged", tmp_path / "torn.dat")
    (tmp_path / "latin.txt").write_bytes("Grüße ".encode("latin-1") * 400)
    refused(FileProblem, "latin.txt is not UTF-8 text", tmp_path / "latin.txt")
    other = tmp_path / "other"
    other.mkdir()
    models.save("LlamaConfig", models.byte_level_tokenizer(other), other, intermediate_size=256, hidden_size=512)
    convert(other, tmp_path / "others.gguf", ["q8_0"], imatrix=text, verify=False)
    refused(ModelError, "it was made of another model", tmp_path / "words-imatrix.gguf")
    with pytest.raises(UsageError, match="an importance matrix is for whole models"):
        convert(folder, tmp_path / "out", [], adapter_only=True, imatrix=text)


def test_a_fault_while_listening_is_not_lost(plain: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Collector, "_collect", interrupted)
    with pytest.raises((KeyboardInterrupt, ModelError)):
        module.compute(plain, text, lambda done, total: None)
    monkeypatch.setattr(module._Collector, "_collect", lambda *_: None)
    monkeypatch.setattr(module._Tensor, "name", b"another layout", raising=False)
    with pytest.raises((ModelError, MalError)):
        module.compute(plain, text, lambda done, total: None)

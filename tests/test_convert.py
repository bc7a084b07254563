"""mal convert on tiny random models: the converted file is the same model, and failures leave nothing behind."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

from mal_convert import convert
from mal_convert.libllama import opened
from metaaligner_lite import manifest
from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.gguf_file import read_header

PROMPT = "The parcel is a week late and"
HARD = (
    "I'm  here:\t12345 x86_64 – Ünïcödé Русский 中文字符 日本語 한국어 😀👍🏽"
    "\r\n\n  if (a&&b) {}  <|im_start|>x<plain added> y<|im_end|>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "tiny-llama"
    path.mkdir()
    models.llama(path)
    return path


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("gguf")
    report = convert(folder, out, ["f32", "f16", "bf16", "q8_0", "q4_k_m"])
    return {output.type: output.path for output in report.outputs}


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_greedy_tokens_equal_those_of_transformers(folder: Path, converted: dict[str, Path], name: str) -> None:
    ids, expected = models.greedy(folder, PROMPT, 64)
    with opened(converted[name]) as model:
        assert model.greedy(ids, 64) == expected


def test_token_ids_equal_those_of_tokenizers(folder: Path, converted: dict[str, Path]) -> None:
    from tokenizers import Tokenizer

    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(HARD, add_special_tokens=False).ids
    with opened(converted["Q4_K_M"]) as model:
        assert model.tokenize(HARD, parse_special=True) == expected


def test_names_follow_the_gguf_convention(converted: dict[str, Path]) -> None:
    assert {name: path.name for name, path in converted.items()} == {
        name: f"Tiny-Llama-1.3M-{name}.gguf" for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K_M")
    }


def test_quantized_types_are_what_they_say(converted: dict[str, Path]) -> None:
    kinds = {name: {tensor.type_name for tensor in read_header(path).tensors} for name, path in converted.items()}
    assert kinds["Q8_0"] == {"F32", "Q8_0"}
    assert {"F32", "Q4_K", "Q6_K"} >= kinds["Q4_K_M"] >= {"F32", "Q4_K"}


def test_metadata_says_how_to_talk_and_when_to_stop(converted: dict[str, Path]) -> None:
    header = read_header(converted["Q4_K_M"])
    assert header.text("tokenizer.ggml.pre") == "smollm"
    assert "<|im_start|>" in header.text("tokenizer.chat_template")
    assert header.metadata["tokenizer.ggml.eos_token_id"] == 2
    assert header.metadata["tokenizer.ggml.bos_token_id"] == 1
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False


def test_the_manifest_travels_in_the_metadata(folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(folder, tmp_path / "source"))
    manifest.write(manifest.Manifest(layout="conversation", base="somebody/base"), source)
    report = convert(source, tmp_path / "out.gguf", ["f16"])
    text = read_header(report.outputs[0].path).text(manifest.GGUF_KEY)
    made = manifest.Manifest.from_json(text, "the file")
    assert (made.layout, made.base) == ("conversation", "somebody/base")
    assert made.conversion["source_type"] == "F32"
    assert made.conversion["verified"] is True


@pytest.mark.parametrize("verify", [True, False])
def test_any_model_says_whether_its_conversion_was_verified(folder: Path, tmp_path: Path, verify: bool) -> None:
    report = convert(folder, tmp_path / "out.gguf", ["f16"], verify=verify)
    made = manifest.Manifest.from_json(read_header(report.outputs[0].path).text(manifest.GGUF_KEY), "the file")
    assert (made.role, made.layout, made.conversion["verified"]) == ("policy", "", verify)


def test_nothing_is_overwritten_without_force(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(FileProblem, match="exists already; pass --force"):
        convert(folder, target, ["f16"])
    assert target.read_bytes() == b"mine"
    convert(folder, target, ["f16"], force=True)
    assert target.read_bytes()[:4] == b"GGUF"


def test_a_full_disk_is_a_plain_error_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mal_convert.writer as writer

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.tensors, "stream", full)
    with pytest.raises(FileProblem, match=r"the disk filled up: .* left, this conversion needs"):
        convert(folder, tmp_path, ["q8_0"])
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_known_beforehand(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(FileProblem, match="1 MB free, this conversion needs"):
        convert(folder, tmp_path, ["q8_0"])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(("types", "limit"), [(["f32"], 3_000_000), (["q8_0"], 1_000_000), (["q8_0"], 5_300_000)])
def test_a_write_that_fails_in_the_system_leaves_nothing(
    folder: Path, tmp_path: Path, types: list[str], limit: int
) -> None:
    out = tmp_path / "out"
    # The last case lets the base through and stops llama.cpp, which must write less: so its limit is set on the way.
    script = f"""
import resource
from pathlib import Path
from metaaligner_lite.errors import MalError
import mal_convert.conversion as c
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
plain = c.write_plain
def then_tighter(*args):
    plain(*args)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
c.write_plain = then_tighter
try:
    c.convert(Path({str(folder)!r}), Path({str(out)!r}), {types!r})
except MalError as error:
    print("clean:", error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("clean:"), run.stdout + run.stderr
    assert not list(out.iterdir())


def test_a_failed_check_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mal_convert.tensors as tensors

    monkeypatch.setattr(tensors, "row_order", lambda _: None)  # forget the rotary permutation
    with pytest.raises(ModelError, match="logits"):
        convert(folder, tmp_path, ["f16", "q4_k_m"])
    assert not list(tmp_path.iterdir())


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD_FOLDERS = [
    (_cut, FileProblem, "damaged or cut short"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), FileProblem, "announces a header"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), FileProblem, "pickles"),
    (lambda f: (f / "model.safetensors").unlink(), FileProblem, "model.safetensors is missing"),
    (lambda f: (f / "config.json").unlink(), FileProblem, "config.json is missing"),
    (lambda f: (f / "config.json").write_text("{"), FileProblem, "cannot read .*config.json"),
    (lambda f: (f / "tokenizer.json").unlink(), FileProblem, "neither tokenizer.json nor tokenizer.model"),
    (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), MalError, "tokenizer"),
    (lambda f: _config(f, architectures=["BertModel"]), ModelError, "'BertModel' is not supported; supported are"),
    (lambda f: _config(f, num_hidden_layers=3), ModelError, "9 tensors are missing"),
    (lambda f: _config(f, num_hidden_layers=1), ModelError, "9 tensors have no place"),
    (lambda f: _config(f, intermediate_size=511), ModelError, r"has the shape .* config.json says"),
    (lambda f: _config(f, num_attention_heads="many"), FileProblem, "num_attention_heads is 'many'"),
    (lambda f: _config(f, tie_word_embeddings=False), ModelError, "tie_word_embeddings"),
    (shutil.rmtree, FileProblem, "no such file or folder"),
]


@pytest.mark.parametrize(("harm", "error", "message"), BAD_FOLDERS)
def test_bad_folders(folder: Path, tmp_path: Path, harm: Any, error: type[MalError], message: str) -> None:
    source = Path(shutil.copytree(folder, tmp_path / "source"))
    harm(source)
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        convert(source, out, ["q8_0"])
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("types", "message"),
    [([], "no output type"), (["q9_z"], "unknown type 'q9_z'; expected one of"), (["iq1_s"], "importance matrix")],
)
def test_bad_types(folder: Path, tmp_path: Path, types: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(folder, tmp_path, types)


def test_numbers_too_large_for_float16_are_not_made_infinite(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = Path(shutil.copytree(folder, tmp_path / "source"))
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="float16 ends at 65504; use --bf16"):
        convert(source, tmp_path / "out", ["f16"])

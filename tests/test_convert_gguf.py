"""Quantizing an unquantized GGUF file again, and `mal convert` as people call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_models as models

from mal_convert import convert, preview
from mal_convert.libllama import opened
from metaaligner_lite import manifest
from metaaligner_lite.cli import app
from metaaligner_lite.errors import MalError, ModelError, UsageError
from metaaligner_lite.gguf_file import read_header


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "tiny-llama"
    path.mkdir()
    models.llama(path)
    manifest.write(manifest.Manifest(layout="conversation"), path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(folder, tmp_path_factory.mktemp("gguf"), ["f32"]).outputs[0].path


def test_a_gguf_file_quantized_later_is_the_same_file(folder: Path, whole: Path, tmp_path: Path) -> None:
    at_once = convert(folder, tmp_path / "at once.gguf", ["q4_k_m"])
    later = convert(whole, tmp_path, ["q4_k_m", "f16"])
    assert [output.path.name for output in later.outputs] == ["Tiny-Llama-1.3M-Q4_K_M.gguf", "Tiny-Llama-1.3M-F16.gguf"]
    assert at_once.outputs[0].path.read_bytes() == later.outputs[0].path.read_bytes()
    errors = at_once.checks[0].logits_error, later.checks[0].logits_error
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert later.checks[1].logits_error is not None
    assert later.checks[1].logits_error < 0.02


def test_what_cannot_be_quantized(whole: Path, folder: Path, tmp_path: Path) -> None:
    small = convert(whole, tmp_path / "small.gguf", ["q8_0"]).outputs[0].path
    with pytest.raises(ModelError, match=r"quantized already \(Q8_0\)"):
        convert(small, tmp_path / "smaller.gguf", ["q4_k_m"])
    models.adapter(folder, tmp_path / "adapter")
    adapter = convert(tmp_path / "adapter", tmp_path / "adapter.gguf", [], adapter_only=True).outputs[0].path
    with pytest.raises(ModelError, match="holds a 'adapter'"):
        convert(adapter, tmp_path / "x.gguf", ["q8_0"])
    with pytest.raises(UsageError, match="replace its own source"):
        convert(whole, whole, ["f16"], force=True)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(MalError, match="cut short"):
        convert(cut, tmp_path / "x.gguf", ["q8_0"])
    assert not (tmp_path / "x.gguf").exists()


def test_a_tokenizer_model_alone_is_enough(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    models.FAMILIES["llama-2"](source)
    with_both = convert(source, tmp_path / "both.gguf", ["f16"]).outputs[0].path
    (source / "tokenizer.json").unlink()
    alone = convert(source, tmp_path / "alone.gguf", ["f16"]).outputs[0].path
    assert with_both.read_bytes() == alone.read_bytes()


def test_an_unknown_rule_is_found_by_comparing_and_a_wrong_name_is_refused(folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(folder, tmp_path / "source"))
    path = source / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    digits, level = tokenizer["pre_tokenizer"]["pretokenizers"]
    # The same rule spelled in another way: nothing here knows it by its form.
    tokenizer["pre_tokenizer"]["pretokenizers"] = [digits, {"type": "Sequence", "pretokenizers": [level]}]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    found = convert(source, tmp_path / "a.gguf", ["f16"]).pre_tokenizer
    with opened(tmp_path / "a.gguf") as model, opened(tmp_path / "a.gguf", pre="smollm") as known:
        assert model.tokenize("in 2024 it was 1,234") == known.tokenize("in 2024 it was 1,234"), found
    with pytest.raises(ModelError, match="none of the 1 pre-tokenizers tried"):
        convert(folder, tmp_path / "b.gguf", ["f16"], pre="llama-bpe")


def test_the_plan_is_shown_and_nothing_written(folder: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = preview(folder, out, ["q4_k_m", "f16"])
    assert made.outputs["F16"] == out / "Tiny-Llama-1.3M-F16.gguf"
    words = {tensor.name: tensor.made_of for tensor in made.tensors}
    assert words["blk.0.attn_k.weight"].endswith("k_proj.weight, rotary rows of 2 heads regrouped")
    size = sum(output.bytes for output in convert(folder, tmp_path / "real", ["q4_k_m", "f16"]).outputs)
    assert made.bytes_needed > size
    assert preview(whole, out, ["q8_0"]).parameters == made.parameters
    assert not out.exists()


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    arguments = ["convert", str(folder), "--out", str(tmp_path)]
    shown = run(app, [*arguments, "--q4_k_m", "--q8_0", "--type", "iq4_xs"])
    assert shown.exit_code == 0
    assert "same likeliest token" in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"Tiny-Llama-1.3M-{kind}.gguf" for kind in ("IQ4_XS", "Q4_K_M", "Q8_0")
    ]
    told = run(app, [*arguments, "--q8_0", "--force", "--json", "--no-verify"])
    report = json.loads(told.stdout)
    assert (report["outputs"][0]["type"], report["checks"]) == ("Q8_0", [])
    text = read_header(Path(report["outputs"][0]["path"])).text(manifest.GGUF_KEY)
    assert manifest.Manifest.from_json(text, "the file").conversion["verified"] is False
    planned = run(app, [*arguments, "--f32", "--dry-run"])
    assert "nothing was written" in planned.stdout
    refused = run(app, [*arguments, "--q8_0"])
    assert "exists already" in str(refused.exception)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sixteen_bit_files_can_be_quantized_too(whole: Path, tmp_path: Path, kind: str) -> None:
    half = convert(whole, tmp_path / "half.gguf", [kind]).outputs[0].path
    report = convert(half, tmp_path, ["q8_0", "f32"])
    assert [check.type for check in report.checks] == ["Q8_0", "F32"]
    assert report.checks[1].tensor_errors == {"F32": 0.0}


def test_the_manifest_says_what_was_not_verified(whole: Path, tmp_path: Path) -> None:
    for verify in (True, False):
        path = convert(whole, tmp_path / "x.gguf", ["q8_0"], verify=verify, force=True).outputs[0].path
        made = manifest.Manifest.from_json(read_header(path).text(manifest.GGUF_KEY), "the file")
        assert made.conversion["verified"] is verify
        with opened(path) as model:
            assert model.tokenize("hello")


def test_help_lists_every_type_there_is() -> None:
    from mal_convert.quantize import offered
    from metaaligner_lite.cli.convert import ALL_TYPES

    assert sorted(ALL_TYPES.split()) == sorted(offered())
    shown = " ".join(CliRunner().invoke(app, ["convert", "--help"], terminal_width=200).stdout.split())
    assert "IQ4_XS" in shown


@pytest.mark.slow
def test_every_type_that_is_offered_can_be_made(whole: Path, tmp_path: Path) -> None:
    from mal_convert.quantize import offered

    for name in offered():
        if name.startswith("TQ"):  # ternary types are for models trained so
            continue
        check = convert(whole, tmp_path / "x.gguf", [name], force=True).checks[0]
        assert check.tensor_errors, name

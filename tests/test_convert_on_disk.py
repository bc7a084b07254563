"""What people have on disk: wrapped names, unknown settings, pointers and pages, MLX adapters, two things in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import convert_models as models

from mal_convert import convert, preview
from mal_convert.job import prepare
from mal_convert.libllama import opened
from mal_convert.model import open_model
from mal_convert.reference import Reference
from metaaligner_lite.errors import FileProblem, MalError, ModelError, UsageError
from metaaligner_lite.files import impostor
from metaaligner_lite.gguf_file import read_header


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny-llama"
    path.mkdir()
    models.llama(path)
    return path


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter"
    models.adapter(base, path)
    return path


def load_file(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path)


def save_file(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata=metadata)


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def rename(folder: Path, change: Callable[[str], str], name: str = "adapter_model.safetensors") -> None:
    save_file({change(key): tensor for key, tensor in load_file(folder / name).items()}, folder / name)


# C1: settings of adapters


@pytest.mark.parametrize("value", [True, 1, 0, "yes", [1], {"rank": 3}])
@pytest.mark.parametrize("alone", [False, True])
def test_an_unknown_adapter_setting_is_refused_by_name(
    trained: Path, base: Path, tmp_path: Path, value: Any, alone: bool
) -> None:
    folder = copied(trained, tmp_path / "adapter")
    edit(folder / "adapter_config.json", use_shiny=value)
    with pytest.raises(ModelError, match=r"sets 'use_shiny' to .*not known here and may change"):
        convert(folder, tmp_path / "out", ["f16"], base=str(base), adapter_only=alone)


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_setting_that_is_off_changes_nothing(trained: Path, base: Path, tmp_path: Path, value: Any) -> None:
    folder = copied(trained, tmp_path / "adapter")
    edit(folder / "adapter_config.json", use_shiny=value, kasa_config=None)
    assert preview(folder, tmp_path / "out", ["f16"], base=str(base)).parameters


def test_every_setting_of_the_installed_peft_is_known_or_refused() -> None:
    import dataclasses

    from peft import LoraConfig

    from mal_convert import adapter

    ours = adapter._UNSUPPORTED | adapter._READ | adapter._HARMLESS
    unknown = {field.name for field in dataclasses.fields(LoraConfig)} - ours
    assert unknown <= {"kasa_config"}  # refused when it is used, like whatever comes next


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "mica", "shiny"])
def test_starts_that_may_change_the_base_are_refused(trained: Path, base: Path, tmp_path: Path, start: str) -> None:
    folder = copied(trained, tmp_path / "adapter")
    edit(folder / "adapter_config.json", init_lora_weights=start)
    with pytest.raises(ModelError, match=f"the adapter started from {start}, which changes the base too"):
        convert(folder, tmp_path / "out", ["f16"], base=str(base))


# C2: an adapter that does nothing


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_that_changes_nothing(
    trained: Path, base: Path, tmp_path: Path, side: str, alone: bool, dtype: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = copied(trained, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}
    save_file({name: -0.0 * tensor if side in name else tensor for name, tensor in weights.items()}, path)
    with pytest.raises(ModelError, match="this adapter changes nothing: .* saved before it was trained"):
        convert(folder, tmp_path / "out", ["f16"], base=str(base), adapter_only=alone)


# C3: what wrappers put into names

WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: "_orig_mod." + name,
    "DDP": lambda name: "module." + name,
    "FSDP, each layer": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "FSDP over checkpointing": lambda name: name.replace(
        "layers.1.", "_fsdp_wrapped_module.layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
    "compiled layers in DDP": lambda name: "module." + name.replace(".self_attn.", "._orig_mod.self_attn."),
}
NAMED: dict[str, Callable[[str], str]] = {
    ".default": lambda name: name.replace(".weight", ".default.weight"),
    "an adapter's own name": lambda name: name.replace(".weight", ".polite.weight"),
    "both": lambda name: "_orig_mod." + name.replace(".weight", ".default.weight"),
}


@pytest.mark.parametrize("how", [*WRAPPED, *NAMED])
def test_names_in_adapters_are_unwrapped(trained: Path, base: Path, tmp_path: Path, how: str) -> None:
    folder = copied(trained, tmp_path / "adapter")
    rename(folder, {**WRAPPED, **NAMED}[how])
    plain, wrapped = (open_model(path, str(base)) for path in (trained, folder))
    assert {name: pair.shape for name, pair in wrapped.low_rank.items()} == {
        name: pair.shape for name, pair in plain.low_rank.items()
    }
    ids = [1, 5, 9]
    assert np.array_equal(Reference(plain).logits(ids), Reference(wrapped).logits(ids))


@pytest.mark.parametrize("how", WRAPPED)
def test_names_in_checkpoints_are_unwrapped(base: Path, tmp_path: Path, how: str) -> None:
    folder = copied(base, tmp_path / "model")
    rename(folder, WRAPPED[how], "model.safetensors")
    assert [step.name for step in prepare(folder, None, ["f16"]).steps]
    assert sorted(open_model(folder).tensors) == sorted(open_model(base).tensors)


def test_a_module_saved_whole_under_an_adapters_name(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    expected = set(open_model(tmp_path / "adapter", str(base)).tensors)
    rename(
        tmp_path / "adapter",
        lambda name: name.replace("lm_head.weight", "lm_head.modules_to_save.default.weight"),
    )
    assert set(open_model(tmp_path / "adapter", str(base)).tensors) == expected


def test_two_adapters_in_one_file_and_two_names_for_one_tensor(trained: Path, base: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    both = {name.replace(".weight", f".{which}.weight"): tensor for name, tensor in weights.items() for which in "xy"}
    save_file(both, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"holds several adapters \(x, y\); save one by itself"):
        open_model(folder, str(base))
    save_file(weights | {f"_orig_mod.{name}": t for name, t in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="which are one tensor; save them once"):
        open_model(folder, str(base))


# C4: what lies in place of a file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 269060552\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>...</body></html>"
STANDING_IN = [
    (POINTER, "a git-lfs pointer, not the file itself: run `git lfs pull`"),
    (b"../../.git/annex/objects/x7/SHA256E-s1--ab/SHA256E-s1--ab\n", "a git-annex pointer"),
    (PAGE, "a web page, not the file itself"),
    (b"\xef\xbb\xbf" + PAGE, "a web page, not the file itself"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page, not the file itself"),
    (b"Entry not found", r"a server's refusal \(Entry not found\)"),
    (b'{"error":"Repository not found"}', "a server's refusal"),
    (b"\x1f\x8b\x08\x00" + bytes(60), "a gzip archive"),
    (b"PK\x03\x04" + bytes(60), "a zip archive"),
    (bytes(4096), "nothing but zeros"),
    (b"", "empty|0 bytes"),
]
PLACES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("name", [*PLACES, "tokenizer.model", "chat_template.jinja", "adapter_config.json", "x.gguf"])
@pytest.mark.parametrize(("content", "message"), STANDING_IN, ids=range(len(STANDING_IN)))
def test_what_stands_in_place_of_a_file_is_named(
    base: Path, trained: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = copied(trained if name == "adapter_config.json" else base, tmp_path / "source")
    if name == "tokenizer.model":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    if name == "chat_template.jinja" and not content:
        pytest.skip("a template may be empty")
    with pytest.raises(FileProblem, match=rf"{name}.* is {message}|{name} is 0 bytes|{name} .*it is {message}"):
        convert(folder / name if name == "x.gguf" else folder, tmp_path / "out", ["q8_0"])
    assert not list(tmp_path.glob("**/*.part"))


def test_real_files_stand_in_for_nothing(base: Path, trained: Path) -> None:
    for path in (*base.iterdir(), *trained.iterdir()):
        head = path.read_bytes()[:512]
        assert path.suffix == ".safetensors" or not impostor(head), path
    # A header whose length happens to begin like an archive's mark is still a header.
    assert not impostor(b'{"__metadata__"')


# C5: a whole model and an adapter in one folder


def test_a_folder_with_both_says_which_was_taken(base: Path, trained: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "both")
    for path in trained.glob("adapter*"):
        shutil.copy(path, folder)
    report = convert(folder, tmp_path / "whole", ["f16"])
    assert "the model was taken, the adapter left out" in report.notes[0]
    assert not open_model(folder).low_rank
    report = convert(folder, tmp_path / "merged", ["f16"], base=str(base))
    assert "the adapter was taken, the model left out" in report.notes[0]
    report = convert(folder, tmp_path / "alone", [], base=str(base), adapter_only=True)
    assert "the adapter was taken, the model left out" in report.notes[0]
    assert not convert(base, tmp_path / "plain", ["f16"]).notes
    (folder / "model.safetensors").unlink()  # config.json alone, as some trainers leave it, makes no model
    assert open_model(folder, str(base)).low_rank
    with pytest.raises(UsageError, match="--base names the base of an adapter, and .* holds no adapter_config.json"):
        convert(base, tmp_path / "plain", ["f16"], base=str(base))


def test_the_command_says_it_on_stderr(base: Path, trained: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from metaaligner_lite.cli import app

    folder = copied(base, tmp_path / "both")
    for path in trained.glob("adapter*"):
        shutil.copy(path, folder)
    found = CliRunner().invoke(app, ["convert", str(folder), "--f16", "--out", str(tmp_path / "out"), "--json"])
    assert "the adapter left out" in found.stderr
    assert "the adapter left out" in json.loads(found.stdout)["notes"][0]


# C6: chat templates as transformers reads them

ONE, TWO, TOOLS = "{{ 'one' }}", "{{ 'two' }}", "{{ 'tools' }}"


def in_config(folder: Path, template: Any) -> None:
    edit(folder / "tokenizer_config.json", chat_template=template)


TEMPLATES: dict[str, Callable[[Path], None]] = {
    "in the config": lambda f: in_config(f, ONE),
    "named, in the config": lambda f: in_config(
        f, [{"name": "default", "template": ONE}, {"name": "tool_use", "template": TOOLS}]
    ),
    "an object in the config": lambda f: in_config(f, {"default": ONE, "tool_use": TOOLS}),
    "a file against the config": lambda f: (in_config(f, TWO), (f / "chat_template.jinja").write_text(ONE)),
    "a file alone": lambda f: (f / "chat_template.jinja").write_text(ONE),
    "lines as Windows ends them": lambda f: (f / "chat_template.jinja").write_bytes(b"{{ 'a' }}\r\nb"),
    "additional ones": lambda f: (
        in_config(f, TWO),
        (f / "chat_template.jinja").write_text(ONE),
        (f / "additional_chat_templates").mkdir(),
        (f / "additional_chat_templates" / "tool_use.jinja").write_text(TOOLS),
        (f / "additional_chat_templates" / "rag.jinja").write_text(TWO),
    ),
}


@pytest.mark.parametrize("form", TEMPLATES)
def test_chat_templates_as_transformers_takes_them(base: Path, tmp_path: Path, form: str) -> None:
    from transformers import AutoTokenizer

    folder = copied(base, tmp_path / "model")
    in_config(folder, None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    TEMPLATES[form](folder)
    theirs = AutoTokenizer.from_pretrained(folder).chat_template
    report = convert(folder, tmp_path / "x.gguf", ["f16"])
    said = read_header(report.outputs[0].path).metadata
    named = theirs if isinstance(theirs, dict) else {"default": theirs}
    assert said["tokenizer.chat_template"] == named["default"]
    others = {
        key.removeprefix("tokenizer.chat_template."): text
        for key, text in said.items()
        if key.startswith("tokenizer.chat_template.")
    }
    assert others == {name: text for name, text in named.items() if name != "default"}
    differing = [note for note in report.notes if "different chat templates" in note]
    assert bool(differing) == (form in ("a file against the config", "additional ones"))
    if differing:
        assert "chat_template.jinja was taken, as transformers does" in differing[0]


def test_templates_without_a_default_are_said(base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "model")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    in_config(folder, [{"name": "tool_use", "template": TOOLS}])
    assert "named tool_use, and no default one" in preview(folder, None, ["f16"]).notes[0]


# C7: adapters of mlx-lm


def as_mlx(peft: Path, folder: Path, **settings: Any) -> Path:
    """The same adapter as mlx-lm would have saved it."""
    folder.mkdir()
    weights = {}
    for name, tensor in load_file(peft / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if part == "base_layer":
            continue
        if part.startswith("lora_magnitude"):
            weights[f"{module}.m"] = tensor
        else:
            part = part.replace("embedding_", "")
            weights[f"{module}.lora_{part[-1].lower()}"] = np.ascontiguousarray(tensor.T)
    save_file(weights, folder / "adapters.safetensors", metadata={"format": "mlx"})
    config = json.loads((peft / "adapter_config.json").read_text())
    kind = "dora" if config["use_dora"] else "lora"
    scale = config["lora_alpha"] / config["r"]
    parameters = {"rank": config["r"], "scale": scale, "dropout": 0.0} | settings
    own = {"fine_tune_type": kind, "num_layers": 16, "lora_parameters": parameters, "iters": 600, "train": True}
    (folder / "adapter_config.json").write_text(json.dumps(own | {"model": config["base_model_name_or_path"]}))
    return folder


@pytest.mark.parametrize("dora", [False, True])
def test_an_mlx_adapter_is_read(base: Path, tmp_path: Path, dora: bool) -> None:
    models.adapter(base, tmp_path / "peft", use_dora=dora, target_modules=["q_proj", "v_proj", "down_proj"])
    folder = as_mlx(tmp_path / "peft", tmp_path / "mlx")
    ids = [1, 5, 9, 20]
    plain, mlx = (open_model(path) for path in (tmp_path / "peft", folder))
    expected = Reference(plain).logits(ids)
    assert np.abs(Reference(mlx).logits(ids) - expected).max() < 1e-5 * expected.std()
    with opened(convert(folder, tmp_path / "merged.gguf", ["f32"]).outputs[0].path) as model:
        assert np.abs(model.logits(ids) - expected).max() < 1e-3 * expected.std()
    if not dora:
        one, other = (
            convert(path, tmp_path / f"{path.name}.gguf", ["f32"], adapter_only=True).outputs[0].path
            for path in (tmp_path / "peft", folder)
        )
        assert models.tensor_bytes(one) == models.tensor_bytes(other)


def test_an_mlx_adapter_of_the_embedding_and_of_older_versions(base: Path, tmp_path: Path) -> None:
    models.adapter(base, tmp_path / "peft", target_modules=["embed_tokens"])
    folder = as_mlx(tmp_path / "peft", tmp_path / "mlx")
    rows = slice(3, 7)
    (one,), (other,) = (open_model(path).low_rank.values() for path in (tmp_path / "peft", folder))
    assert np.allclose(one.added(rows), other.added(rows))
    assert open_model(folder).tied  # MLX uses a tied embedding's change for the head as well
    assert not open_model(tmp_path / "peft").tied
    older = as_mlx(tmp_path / "peft", tmp_path / "older", alpha=16.0, scale=10.0)  # scale * alpha / rank then
    assert next(iter(open_model(older).low_rank.values())).scale == 20.0


MLX_BAD: list[tuple[Callable[[Path], object], type[MalError], str]] = [
    (lambda f: edit(f / "adapter_config.json", fine_tune_type="full"), ModelError, "MLX adapter is of type 'full'"),
    (lambda f: edit(f / "adapter_config.json", lora_parameters=None), FileProblem, "expected rank and scale"),
    (lambda f: edit(f / "adapter_config.json", lora_parameters={"rank": 8}), FileProblem, "scale is None"),
    (lambda f: edit(f / "adapter_config.json", lora_parameters={"scale": 1, "shiny": 2}), ModelError, "shiny"),
    (lambda f: (f / "adapter_config.json").unlink(), FileProblem, "MLX adapter .* without its adapter_config.json"),
    (lambda f: (f / "adapters.safetensors").rename(f / "adapters.npz"), ModelError, "MLX adapter in adapters.npz"),
    (
        lambda f: save_file({"model.layers.0.mlp.x.lora_a": np.ones((2, 4, 8))}, f / "adapters.safetensors"),
        ModelError,
        "one matrix for each expert; fuse it with mlx_lm.fuse",
    ),
]


@pytest.mark.parametrize(("harm", "error", "message"), MLX_BAD)
def test_mlx_adapters_that_are_not_read_are_named(
    trained: Path, tmp_path: Path, harm: Callable[[Path], object], error: type[MalError], message: str
) -> None:
    folder = as_mlx(trained, tmp_path / "mlx")
    harm(folder)
    with pytest.raises(error, match=message):
        convert(folder, tmp_path / "out", ["f16"])


def test_a_checkpoint_that_mlx_quantized(base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "model")
    edit(folder / "config.json", quantization={"group_size": 64, "bits": 4})
    with pytest.raises(ModelError, match=r"quantized already \(quantization in config.json\)"):
        convert(folder, tmp_path / "out", ["f16"])


# C8: a GGUF file as the base


def test_a_gguf_as_base_of_an_adapter_alone(base: Path, trained: Path, tmp_path: Path) -> None:
    whole = convert(base, tmp_path / "base.gguf", ["q8_0"]).outputs[0].path
    named = convert(trained, tmp_path / "a.gguf", ["f32"], base=str(whole), adapter_only=True).outputs[0].path
    plain = convert(trained, tmp_path / "b.gguf", ["f32"], base=str(base), adapter_only=True).outputs[0].path
    assert models.tensor_bytes(named) == models.tensor_bytes(plain)
    with opened(whole) as model, model.adapter(named):
        assert np.isfinite(model.logits([1, 5, 9])).all()
    with pytest.raises(UsageError, match=r"is a GGUF file: an adapter is merged into its base's 16 or 32-bit folder"):
        convert(trained, tmp_path / "c.gguf", ["f32"], base=str(whole))
    for wrong in ({"base": str(base)}, {"adapter_only": True}):
        with pytest.raises(UsageError, match=r"is a GGUF file, .*--base and --adapter-only belong to adapter folders"):
            convert(whole, tmp_path / "d.gguf", ["f32"], **wrong)


# Rotary settings that contradict each other

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"rope_parameters": DEFAULT, "rope_theta": 5e5}, "rope_parameters.rope_theta is 10000.0, rope_theta is 500000.0"),
    (
        {"rope_parameters": DEFAULT, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "rope_parameters.rope_type is default, rope_scaling.rope_type is linear",
    ),
    (
        {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
        "rope_scaling.rope_type is linear, rope_scaling.type is yarn",
    ),
    (
        {
            "rope_parameters": {"rope_type": "linear", "factor": 2.0},
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
        "rope_parameters.factor is 2.0, rope_scaling.factor is 4.0",
    ),
    (
        {
            "rope_parameters": models.YARN,
            "original_max_position_embeddings": 64,
        },
        "original_max_position_embeddings is 128, original_max_position_embeddings is 64",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_contradicting_rotary_settings_are_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = copied(base, tmp_path / "model")
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=f"config.json contradicts itself: .*{message}; keep the one"):
        convert(folder, tmp_path / "out", ["f16"])


AGREEING: list[dict[str, Any]] = [
    {"rope_parameters": DEFAULT, "rope_theta": 10000, "rope_scaling": None},
    {"rope_parameters": {"type": "linear", "factor": 2}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"rope_parameters": None, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}},
]


@pytest.mark.parametrize("changes", AGREEING)
def test_rotary_settings_said_twice_are_read(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = copied(base, tmp_path / "model")
    edit(folder / "config.json", **changes)
    assert prepare(folder, None, ["f16"]).steps


def test_an_unknown_rotary_setting_is_refused(base: Path, tmp_path: Path) -> None:
    folder = copied(base, tmp_path / "model")
    edit(folder / "config.json", rope_parameters={**models.YARN, "mscale": 0.7})
    with pytest.raises(ModelError, match="the rope setting rope_parameters.mscale is not known here"):
        convert(folder, tmp_path / "out", ["f16"])


# Marks and encodings that editors leave


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_with_a_byte_order_mark_are_read(base: Path, tmp_path: Path, encoding: str) -> None:
    folder = copied(base, tmp_path / "tiny-llama")
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
    for path in (folder / name for name in names):
        path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    one, other = (convert(source, tmp_path / f"{i}.gguf", ["f16"]) for i, source in enumerate((base, folder)))
    first, second = (read_header(report.outputs[0].path).metadata for report in (one, other))
    assert dict(first) == dict(second)


# Experts joined in one tensor, and adapters of them


def test_experts_in_one_tensor_are_the_same_experts(tmp_path: Path) -> None:
    apart, joined = tmp_path / "apart", tmp_path / "joined"
    apart.mkdir()
    models.FAMILIES["qwen3-moe"](apart)
    copied(apart, joined)
    weights = load_file(apart / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        parts = {p: [weights.pop(f"{at}.{n}.{p}_proj.weight") for n in range(8)] for p in ("gate", "up", "down")}
        both = [np.concatenate(pair) for pair in zip(parts["gate"], parts["up"], strict=True)]
        weights |= {f"{at}.gate_up_proj": np.stack(both), f"{at}.down_proj": np.stack(parts["down"])}
    save_file(weights, joined / "model.safetensors")
    one, other = (convert(folder, tmp_path / f"{folder.name}.gguf", ["f16"]) for folder in (apart, joined))
    assert models.tensor_bytes(one.outputs[0].path) == models.tensor_bytes(other.outputs[0].path)
    assert any("8 experts, each" in tensor.made_of for tensor in preview(apart, None, ["f16"]).tensors)
    edit(apart / "config.json", num_experts=10**6)
    with pytest.raises(ModelError, match="names 1,000,000 experts in each of 2 layers, the weights hold only"):
        convert(apart, tmp_path / "x.gguf", ["f16"])


def test_an_adapter_of_one_expert_is_merged_and_not_written_alone(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    models.FAMILIES["qwen3-moe"](base)
    at, chance = "model.layers.0.mlp.experts.3.up_proj", np.random.default_rng(0)
    a, b = chance.normal(size=(4, 256)).astype(np.float32), chance.normal(size=(256, 4)).astype(np.float32)
    adapter.mkdir()
    matrices = {f"base_model.model.{at}.lora_A.weight": a, f"base_model.model.{at}.lora_B.weight": b}
    save_file(matrices, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = models.tensor_bytes(convert(adapter, tmp_path / "x.gguf", ["f32"]).outputs[0].path)
    stack = np.frombuffer(found["blk.0.ffn_up_exps.weight"][2], np.float32).reshape(8, 256, 256)
    expected = load_file(base / "model.safetensors")[f"{at}.weight"] + 2 * b @ a
    assert np.allclose(stack[3], expected, atol=1e-5)
    with pytest.raises(ModelError, match="the adapter changes one expert .* merge it"):
        convert(adapter, tmp_path / "y.gguf", ["f32"], adapter_only=True)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3-moe", {"mlp_only_layers": [1]}, "mlp_only_layers is .1.; llama.cpp's qwen3moe has only"),
        ("qwen3-moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
        ("qwen2-moe", {"norm_topk_prob": True}, "norm_topk_prob is True"),
        ("granite-4", {"layer_types": ["mamba", "attention"]}, "layer_types differ from llama.cpp's granite"),
        ("granite-4", {"num_local_experts": 4}, "num_local_experts is 4"),
        (
            "granite-3",
            {"residual_multiplier": 0},
            "residual_multiplier is 0, which llama.cpp",
        ),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers is .*each 4th layer without"),
        ("smollm3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("olmo-2", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ],
)
def test_variants_that_llama_cpp_computes_otherwise(
    tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    models.FAMILIES[family](folder)
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "out", ["f16"])

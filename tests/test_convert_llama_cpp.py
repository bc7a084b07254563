"""Tensor bytes and metadata equal those of llama.cpp's own converters; where they differ on purpose, why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import convert_llama_cpp as theirs
import convert_models as models

from mal_convert import convert
from metaaligner_lite.gguf_file import read_header

pytestmark = pytest.mark.slow

TYPES = ("F32", "F16", "BF16")
# What differs on purpose, for every family:
#   add_sep_token: theirs says how pairs of texts are joined, which no chat does; left out here.
#   add_bos_token: always said here, so that no version of llama.cpp falls back to a default of its own.
#   metaaligner.manifest: ours alone; says what the conversion was, and whether it was verified.
KEYS = {"tokenizer.ggml.add_sep_token", "tokenizer.ggml.add_bos_token", "metaaligner.manifest"}
# A SentencePiece model without tokenizer.model: theirs writes -1000 as every score, under which llama.cpp merges in
# another order than the source, types the added token as text, and leaves the padding out, so it cannot be loaded.
JSON_ONLY = {"tokenizer.ggml.scores", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}


# Theirs writes what Granite 4's hybrid has, which llama.cpp does not read of the dense form.
GRANITE_4 = {
    *("granite.expert_count", "granite.expert_used_count", "granite.expert_shared_feed_forward_length"),
    *("granite.ssm.time_step_rank", "granite.ssm.conv_kernel", "granite.ssm.inner_size"),
    *("granite.ssm.state_size", "granite.ssm.group_count"),
    "granite.attention.head_count_kv",  # the same number for each layer there, once here
    "granite.rope.scaling.finetuned",  # true, which is what its absence means
}
ALSO = {"tinyllama": JSON_ONLY, "granite-4": GRANITE_4}


CARD = """---
license: apache-2.0
base_model: somebody/Base-Model-1B
language: [en, de]
datasets: [somebody/some-data]
tags: [text-generation]
---
# A model
"""
SAMPLING = {"do_sample": True, "temperature": 0.5, "top_p": 0.75, "top_k": 20}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, Path]]:
    """(family, type) -> our file and theirs."""
    root = theirs.sources()
    folder = tmp_path_factory.mktemp("both")
    pairs, jobs = {}, []
    for family, make in models.FAMILIES.items():
        source = folder / family
        source.mkdir()
        make(source)
        (source / "README.md").write_text(CARD, encoding="utf-8")
        path = source / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | SAMPLING), encoding="utf-8")
        report = convert(source, folder / "ours", TYPES)
        for output in report.outputs:
            target = folder / f"{family}-{output.type}.gguf"
            arguments = [str(source), "--outfile", str(target), "--outtype", output.type.lower()]
            jobs.append(("convert_hf_to_gguf.py", report.pre_tokenizer, arguments))
            pairs[family, output.type] = (output.path, target)
    theirs.run(root, jobs)
    return pairs


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("family", models.FAMILIES)
def test_tensors_and_metadata_equal(
    converted: dict[tuple[str, str], tuple[Path, Path]], family: str, kind: str
) -> None:
    ours, other = (read_header(path, max_array=1 << 20) for path in converted[family, kind])
    assert [t.name for t in ours.tensors] == [t.name for t in other.tensors]
    assert models.tensor_bytes(ours.path) == models.tensor_bytes(other.path)
    differing = {k for k in {*ours.metadata, *other.metadata} if ours.metadata.get(k) != other.metadata.get(k)}
    assert ours.text("general.license") == "apache-2.0"
    assert ours.text("general.base_model.0.repo_url").endswith("somebody/Base-Model-1B")
    assert ours.metadata["general.sampling.top_k"] == 20
    assert differing <= KEYS | ALSO.get(family, set())


ADAPTERS = {
    "llama-2": {},
    "llama-3.2": {"alora_invocation_tokens": [5, 7, 9]},
    "mistral": {},  # theirs leaves out the scale of rank-stabilized adapters and of patterns, ours puts it into B
    "qwen2.5": {},
    "qwen3": {},
    "gemma-3": {},
    "gemma-2": {"alora_invocation_tokens": [5, 7, 9]},
    "phi-3": {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]},
}


def test_adapter_files_equal(tmp_path: Path) -> None:
    root = theirs.sources()
    jobs, pairs = [], []
    for family, settings in ADAPTERS.items():
        base, folder = tmp_path / family, tmp_path / f"{family}-adapter"
        base.mkdir()
        models.FAMILIES[family](base)
        models.adapter(base, folder, **settings)
        for output in convert(folder, tmp_path / "ours", ["f32", "f16"], adapter_only=True).outputs:
            target = tmp_path / f"{family}-{output.type}.gguf"
            arguments = [str(folder), "--base", str(base), "--outfile", str(target), "--outtype", output.type.lower()]
            jobs.append(("convert_lora_to_gguf.py", "", arguments))
            pairs.append((output.path, target))
    theirs.run(root, jobs)
    for paths in pairs:
        ours, other = (read_header(path) for path in paths)
        assert dict(ours.metadata) == dict(other.metadata)
        assert models.tensor_bytes(ours.path) == models.tensor_bytes(other.path)

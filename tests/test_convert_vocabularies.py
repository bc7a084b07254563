"""Released vocabularies, rebuilt as Hugging Face tokenizers: ids equal those llama.cpp's own tests expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

import convert_llama_cpp as theirs

from mal_convert.architectures import ARCHITECTURES
from mal_convert.job import settle_pre_tokenizer, write_vocabulary
from mal_convert.libllama import opened
from mal_convert.pretokenizer import _BY_PATTERN
from mal_convert.tokens import reference_encoder
from mal_convert.vocab import read_vocabulary
from metaaligner_lite.gguf_file import read_header

pytestmark = pytest.mark.slow

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def split(pre: str) -> dict[str, Any]:
    """The pre-tokenizer of a released tokenizer.json whose rule is one regular expression."""
    pattern = next(pattern for pattern, names in _BY_PATTERN.items() if pre in names)
    first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, {**LEVEL, "use_regex": False}]}


DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, LEVEL]}
# Several rules in a row, which pretokenizer.py does not know: the name is found by comparing ids.
CODER = {
    "type": "Sequence",
    "pretokenizers": [
        *(
            {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
            for rule in (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
        ),
        {"type": "Digits", "individual_digits": True},
        {**LEVEL, "use_regex": False},
    ],
}
# Vocabulary file -> the pre-tokenizer its tokenizer.json has, and whether whole words are looked up before merging.
BYTE_LEVEL = {
    "gpt-2": (LEVEL, False),
    "llama-bpe": (split("llama-bpe"), True),
    "qwen2": (split("qwen2"), False),
    "starcoder": (DIGITS, False),
    "refact": (DIGITS, False),
    "deepseek-coder": (CODER, False),
}


@pytest.fixture(scope="module")
def vocabularies() -> Path:
    return theirs.sources() / "models"


def cases(folder: Path, name: str) -> list[tuple[str, list[int]]]:
    """Texts and the ids llama.cpp's tests expect."""
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


def check(folder: Path, name: str, models: Path) -> str:
    """Read the rebuilt tokenizer as a conversion would; compare ids. Returns the pre-tokenizer that was found."""
    vocabulary = settle_pre_tokenizer(read_vocabulary(folder, {}), ARCHITECTURES[0], folder)
    path = folder / "vocabulary.gguf"
    write_vocabulary(path, vocabulary, ARCHITECTURES[0])
    encode = reference_encoder(folder)
    with opened(path, vocab_only=True) as model:
        for text, expected in cases(models, name):
            assert model.tokenize(text) == expected
            assert encode(text) == expected
    return vocabulary.pre[0]


def added_tokens(tokens: tuple[str, ...], kinds: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"id": i, "content": token, "special": kind == CONTROL, "normalized": False, "lstrip": False, "rstrip": False}
        | {"single_word": False}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER)
    ]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level(vocabularies: Path, tmp_path: Path, name: str) -> None:
    metadata = read_header(vocabularies / f"ggml-vocab-{name}.gguf", max_array=1 << 20).metadata
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    pre, whole_words = BYTE_LEVEL[name]
    vocab = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == NORMAL}
    model = {"type": "BPE", "vocab": vocab, "ignore_merges": whole_words}
    model |= {"merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]], "byte_fallback": False}
    tokenizer = {"added_tokens": added_tokens(tokens, kinds), "pre_tokenizer": pre, "model": model}
    tokenizer |= {"decoder": LEVEL, "normalizer": {"type": "NFC"} if name == "qwen2" else None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = check(tmp_path, name, vocabularies)
    assert found == {"starcoder": "smollm", "refact": "smollm"}.get(name, name)  # three names, one behaviour


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_sentencepiece_from_tokenizer_json_alone(vocabularies: Path, tmp_path: Path, name: str) -> None:
    metadata = read_header(vocabularies / f"ggml-vocab-{name}.gguf", max_array=1 << 20).metadata
    tokens, kinds, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    own = [i for i, kind in enumerate(kinds) if kind in (NORMAL, UNKNOWN, BYTE)]
    vocab = {tokens[i]: i for i in own}
    pairs = []
    for i in own:
        for cut in range(1, len(tokens[i])):
            left, right = tokens[i][:cut], tokens[i][cut:]
            if kinds[i] == NORMAL and left in vocab and right in vocab:
                pairs.append((-scores[i], vocab[left], vocab[right], left, right))
    merges = [[left, right] for *_, left, right in sorted(pairs)]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "fuse_unk": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    tokenizer = {"added_tokens": added_tokens(tokens, kinds), "normalizer": normalizer}
    tokenizer |= {"model": {**model, "unk_token": "<unk>"}, "decoder": {"type": "ByteFallback"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check(tmp_path, name, vocabularies) == "default"

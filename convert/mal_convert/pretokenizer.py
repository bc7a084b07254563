"""Which of llama.cpp's pre-tokenizers a byte-level BPE tokenizer uses, by the rules in its tokenizer.json.

A rule known here names candidates; verification then compares token ids on a probe text and decides. Where the rules
are unknown, every name llama.cpp has is tried the same way. Nothing is taken on trust, and nothing becomes "default".
Names and rules: llama.cpp src/llama-vocab.cpp; Hugging Face tokenizers' JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OPTIONAL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

# The regular expression of a Split before the byte level -> names.
_BY_PATTERN: Mapping[str, tuple[str, ...]] = {
    _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL: ("llama-bpe", "smaug-bpe", "dbrx"),
    _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL: ("qwen2", "stablelm2"),
    _CASED % ("", "", r"\p{N}"): ("tekken",),
    _CASED % (_OPTIONAL, _OPTIONAL, r"\p{N}{1,3}"): ("gpt-4o", "llama4"),
}

# Every other name worth trying where no rule is known, each behaving differently from the others.
_ALL = (
    "gpt-2",
    "smollm",
    "llama-bpe",
    "qwen2",
    "tekken",
    "gpt-4o",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "falcon3",
    "command-r",
    "starcoder",
    "bloom",
    "gpt3-finnish",
    "poro-chat",
    "viking",
    "exaone",
    "chameleon",
    "minerva-7b",
    "superbpe",
    "trillion",
    "bailingmoe",
    "seed-coder",
    "hunyuan",
    "kimi-k2",
    "refact",
    "olmo",
)


def candidates(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Names this tokenizer may have in llama.cpp, the likeliest first."""
    pre = tokenizer.get("pre_tokenizer")
    steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
    kinds = [step.get("type") for step in steps if isinstance(step, dict)]
    known: tuple[str, ...] = ()
    if kinds == ["ByteLevel"]:
        known = ("gpt-2",)
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        known = ("smollm", "starcoder")
    elif kinds[:1] == ["Split"]:
        known = _BY_PATTERN.get((steps[0].get("pattern") or {}).get("Regex", ""), ())
    return (*known, *(name for name in _ALL if name not in known))

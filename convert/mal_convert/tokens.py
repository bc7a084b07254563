"""Whether llama.cpp reads text as the source's tokenizer does, and under which pre-tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import MalError, ModelError

from .libllama import LoadedModel, opened
from .probe import PROBE

Encode = Callable[[str], list[int]]


def reference_encoder(folder: Path) -> Encode:
    """How the source tokenizes plain text, by the tokenizers library, else by sentencepiece."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {error}; copy the base model's") from error
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
    from sentencepiece import SentencePieceProcessor

    pieces: Any = SentencePieceProcessor()
    pieces.LoadFromFile(str(folder / "tokenizer.model"))
    return lambda text: list(pieces.EncodeAsIds(text))


def choose_pre(path: Path, candidates: tuple[str, ...], encode: Encode) -> str:
    """The first candidate under which llama.cpp reads the probe text as the source does.

    `path` is a GGUF file with the vocabulary alone. Raises ModelError if there is none, saying where they part.
    """
    complaint = ""
    for name in candidates:
        try:
            with opened(path, vocab_only=True, pre=name) as model:
                found = first_difference(model, encode)
        except MalError as error:
            found = str(error)
        if found is None:
            return name
        complaint = complaint or f"{name}: {found}"
    raise ModelError(
        f"none of the {len(candidates)} pre-tokenizers tried gives the source's token ids ({complaint}); "
        "llama.cpp may not know this tokenizer yet"
    )


def first_difference(model: LoadedModel, encode: Encode) -> str | None:
    """Where llama.cpp and the source part on the probe text, line by line and as a whole; None if nowhere."""
    for text in (*PROBE.split("\n"), PROBE):
        ours, theirs = model.tokenize(text, parse_special=True), encode(text)
        if ours != theirs:
            shared = zip(ours, theirs, strict=False)
            at = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(ours), len(theirs)))
            return f"{text[:40]!r} becomes {ours[at : at + 4]} at token {at}, expected {theirs[at : at + 4]}"
    return None

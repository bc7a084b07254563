"""Whether llama.cpp reads text as the source's tokenizer does, and under which pre-tokenizer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import MalError, ModelError
from metaaligner_lite.files import read_head

from .checkpoint import read_json
from .libllama import LoadedModel, opened
from .probe import PROBE


@dataclass(frozen=True, slots=True)
class Encoder:
    """How the source tokenizes plain text. `composes`: it first composes characters (Unicode NFC), as Qwen does.

    llama.cpp never composes, so the two agree on composed text alone; most text is, and the comparison uses such.
    """

    encode: Callable[[str], list[int]]
    composes: bool = False

    def __call__(self, text: str) -> list[int]:
        """Token ids of `text`, with no special tokens put around it."""
        return self.encode(text)


def reference_encoder(folder: Path) -> Encoder:
    """The source's tokenizer, by the tokenizers library, else by sentencepiece."""
    path = folder / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            plain = read_head(path).lstrip().startswith(b"{")  # with a byte order mark it is decoded here
            tokenizer = Tokenizer.from_file(str(path)) if plain else Tokenizer.from_str(json.dumps(read_json(path)))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} cannot be read: {error}; copy the base model's") from error
        composes = (read_json(path).get("normalizer") or {}) == {"type": "NFC"}
        return Encoder(lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), composes)
    from sentencepiece import SentencePieceProcessor

    pieces: Any = SentencePieceProcessor()
    pieces.LoadFromFile(str(folder / "tokenizer.model"))
    return Encoder(lambda text: list(pieces.EncodeAsIds(text)))


def choose_pre(path: Path, candidates: tuple[str, ...], encode: Encoder) -> str:
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


def first_difference(model: LoadedModel, encode: Encoder) -> str | None:
    """Where llama.cpp and the source part on the probe text, line by line and as a whole; None if nowhere."""
    probe = unicodedata.normalize("NFC", PROBE) if encode.composes else PROBE
    for text in (*probe.split("\n"), probe):
        ours, theirs = model.tokenize(text, parse_special=True), encode(text)
        if ours != theirs:
            shared = zip(ours, theirs, strict=False)
            at = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(ours), len(theirs)))
            return f"{text[:40]!r} becomes {ours[at : at + 4]} at token {at}, expected {theirs[at : at + 4]}"
    return None

"""A tokenizer as GGUF wants it: the text, score and kind of every token, merges, and the special ones."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf

from metaaligner_lite.errors import FileProblem, MalError, ModelError
from metaaligner_lite.files import HEAD, decode_text, impostor, read_head

from .checkpoint import read_optional_json
from .pretokenizer import candidates

_SPECIAL_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_UNRANKED = -1000.0  # score of tokens that no merge makes
_PADDING = -10000.0


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in GGUF's terms. `model` is "gpt2" (byte-level BPE) or "llama" (SentencePiece).

    `pre` lists the pre-tokenizers it may be, the likeliest first: verification decides.
    """

    model: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    pre: tuple[str, ...] = ("default",)
    specials: Mapping[str, int] = field(default_factory=dict)  # role -> token id
    add: Mapping[str, bool] = field(default_factory=dict)  # role -> added to every text
    add_space_prefix: bool | None = None
    chat_template: str | list[dict[str, str]] | None = None
    notes: tuple[str, ...] = ()  # what was taken where files say different things

    def padded(self, size: int) -> Vocabulary:
        """The same with unused tokens up to `size`, the rows of the embedding."""
        extra = range(len(self.tokens), size)
        return replace(
            self,
            tokens=(*self.tokens, *(f"[PAD{i}]" for i in extra)),
            kinds=(*self.kinds, *(int(gguf.TokenType.UNUSED) for _ in extra)),
            scores=(*self.scores, *(_PADDING for _ in extra)) if self.scores else (),
        )

    def check(self) -> None:
        """Raise ModelError for what llama.cpp ends the process over, or cannot store."""
        if len(set(self.tokens)) != len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ModelError(f"the token {twice!r} is in the vocabulary twice; GGUF needs each once")
        if not all(math.isfinite(score) for score in self.scores):
            raise ModelError("a token's score is not a finite number; copy the tokenizer files of the base model")
        if self.model == "llama" and (lost := {f"<0x{byte:02X}>" for byte in range(256)} - set(self.tokens)):
            raise ModelError(f"the vocabulary lacks the byte token {min(lost)}; llama.cpp needs one for each byte")
        for text in (*self.tokens, *self.merges, *_templates(self.chat_template)):
            text.encode()  # half a character of UTF-16 raises UnicodeEncodeError, a ValueError

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Put it into a GGUF file's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre[0])
        writer.add_token_list(list(self.tokens))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types(list(self.kinds))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for role, token in self.specials.items():
            getattr(writer, f"add_{role}_token_id")(token)
        for role, added in self.add.items():
            getattr(writer, f"add_add_{role}_token")(added)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(folder: Path, config: Mapping[str, Any]) -> Vocabulary:
    """The tokenizer of a model folder, from tokenizer.json or tokenizer.model.

    Raises FileProblem if neither is there or one is damaged, ModelError if it is of a kind GGUF has no place for.
    """
    settings = read_optional_json(folder / "tokenizer_config.json")
    tokenizer = read_optional_json(folder / "tokenizer.json")
    try:
        return _read(folder, config, settings, tokenizer)
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, MalError):
            raise
        # Only files of another shape than any tokenizer library writes get here.
        raise FileProblem(f"the tokenizer files in {folder} are damaged ({error!r}); copy the base model's") from error


def _read(
    folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> Vocabulary:
    has_pieces = (folder / "tokenizer.model").is_file()
    byte_level = "ByteLevel" in _decoders(tokenizer)
    if has_pieces and not byte_level:
        vocabulary = _from_pieces(folder / "tokenizer.model", folder, settings, tokenizer)
    elif tokenizer:
        vocabulary = _from_json(tokenizer, folder / "tokenizer.json")
    else:
        raise FileProblem(
            f"{folder} has neither tokenizer.json nor tokenizer.model; copy the tokenizer files of the base model"
        )
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    specials = _specials(settings, config, ids)
    if (turn_end := _turn_end(folder, specials.get("eos"), vocabulary)) is not None:
        specials["eot"] = turn_end
    template, notes = _chat_template(folder, settings)
    told = "add_prefix_space" in settings or vocabulary.add_space_prefix is False
    complete = replace(
        vocabulary,
        specials=specials,
        add=_added(tokenizer, settings, vocabulary, specials),
        add_space_prefix=vocabulary.add_space_prefix if told else None,  # llama.cpp adds one unless told otherwise
        chat_template=template,
        notes=notes,
    )
    complete.check()
    return complete


def _from_json(tokenizer: Mapping[str, Any], path: Path) -> Vocabulary:
    model = tokenizer.get("model")
    if not isinstance(model, dict) or not isinstance(vocab := model.get("vocab"), dict) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ModelError(f"{path}: the tokenizer is of type {kind!r}, expected BPE; GGUF supports no other one here")
    texts = {i: token for token, i in vocab.items()}
    added = _added_tokens(tokenizer, path)
    texts |= {i: entry["content"] for i, entry in added.items()}
    size = len(texts)
    if not all(type(i) is int for i in texts) or min(texts, default=0) < 0 or max(texts, default=0) >= 4 * size + 65536:
        raise FileProblem(f"{path}: token ids are not whole numbers in a plausible range")
    merges = _merges(model, path)
    if "ByteLevel" in _decoders(tokenizer):
        return _byte_level(texts, added, merges, candidates(tokenizer))
    if model.get("byte_fallback"):
        return _sentencepiece(texts, added, merges, model, tokenizer)
    raise ModelError(f"{path}: neither byte-level BPE nor SentencePiece with byte fallback; GGUF has no place for it")


def _from_pieces(path: Path, folder: Path, settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> Vocabulary:
    """A SentencePiece model, with the tokens added to it later."""
    from sentencepiece import SentencePieceProcessor

    if what := impostor(read_head(path)):
        raise FileProblem(f"{path} is {what}")
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(path))
    except (OSError, RuntimeError) as error:
        raise FileProblem(f"cannot read {path}: {error}; copy it from the base model") from error
    texts = {i: pieces.IdToPiece(i) for i in range(pieces.GetPieceSize())}
    added: dict[int, dict[str, Any]] = {i: {"content": text} for text, i in _added_file(folder).items()}
    decoder = settings.get("added_tokens_decoder") or {}
    added |= {int(i): entry for i, entry in decoder.items()}
    added |= _added_tokens(tokenizer, path)
    named = {pieces.IdToPiece(i): int(kind) for i in range(pieces.GetPieceSize()) if (kind := _piece_kind(pieces, i))}
    texts |= {i: entry["content"] for i, entry in added.items()}
    tokens, kinds = _list(texts, added, named)
    scores = tuple(
        _UNRANKED if i in added else pieces.GetScore(i) if i < pieces.GetPieceSize() else _PADDING
        for i in range(len(tokens))
    )
    prefix = _prepends_space(tokenizer) if tokenizer else pieces.EncodeAsPieces("a")[0].startswith("▁")
    return Vocabulary("llama", tokens, kinds, scores=scores, add_space_prefix=prefix)


def _piece_kind(pieces: Any, i: int) -> gguf.TokenType | None:
    """The kind of a SentencePiece token that is not plain text."""
    if pieces.IsUnknown(i):
        return gguf.TokenType.UNKNOWN
    if pieces.IsControl(i):
        return gguf.TokenType.CONTROL
    if pieces.IsUnused(i):
        return gguf.TokenType.UNUSED
    return gguf.TokenType.BYTE if pieces.IsByte(i) else None


def _added_file(folder: Path) -> dict[str, int]:
    """added_tokens.json, as older versions of transformers wrote it."""
    entries = read_optional_json(folder / "added_tokens.json")
    return {text: i for text, i in entries.items() if type(i) is int and i >= 0}


def _byte_level(
    texts: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    merges: list[tuple[str, str]],
    pre: tuple[str, ...],
) -> Vocabulary:
    tokens, kinds = _list(texts, added, {})
    # GGUF separates the halves of a merge by a space; a space inside one is written as its byte-level letter.
    joined = tuple(" ".join(half.replace(" ", "Ġ") for half in pair) for pair in merges)
    return Vocabulary("gpt2", tokens, kinds, merges=joined, pre=pre)


def _sentencepiece(
    texts: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    merges: list[tuple[str, str]],
    model: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
) -> Vocabulary:
    """A SentencePiece model that survives only as tokenizer.json: scores come from the order of the merges.

    llama.cpp joins the pair whose joined token scores highest, tokenizers the pair that merges first.
    """
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    unknown = model.get("unk_token")
    special: dict[str, int] = {f"<0x{byte:02X}>": int(gguf.TokenType.BYTE) for byte in range(256)}
    if isinstance(unknown, str):
        special[unknown] = int(gguf.TokenType.UNKNOWN)
    tokens, kinds = _list(texts, added, special)
    scores = tuple(-float(ranks[token]) if token in ranks else _UNRANKED for token in tokens)
    prefix = _prepends_space(tokenizer)
    return Vocabulary("llama", tokens, kinds, scores=scores, add_space_prefix=prefix)


def _list(
    texts: Mapping[int, str], added: Mapping[int, Mapping[str, Any]], named: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Tokens and kinds by id; ids that nothing uses become unused tokens."""
    tokens, kinds = [], []
    for i in range(max(texts) + 1):
        text = texts.get(i)
        if text is None:
            text, kind = f"[PAD{i}]", int(gguf.TokenType.UNUSED)
        elif i in added:
            control = bool(added[i].get("special")) or looks_special(text)
            kind = int(gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED)
            text = text if control else text.replace("▁", " ")
        elif text in named:
            kind = named[text]
        else:
            kind = int(gguf.TokenType.NORMAL)
        tokens.append(text)
        kinds.append(kind)
    return tuple(tokens), tuple(kinds)


def looks_special(text: str) -> bool:
    """Whether a token is a control token although its tokenizer does not say so, as in some released models."""
    return bool(
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or re.fullmatch(r"<\|.*\|>|<｜.*｜>|<unused.*>", text, re.DOTALL)
    )


def _added_tokens(tokenizer: Mapping[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    entries = tokenizer.get("added_tokens") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        match entry:
            case {"id": int(), "content": str()}:
                pass
            case _:
                raise FileProblem(f"{path}: an added token is {str(entry)[:80]}, expected an id and a content")
    return {entry["id"]: entry for entry in entries}


def _merges(model: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise FileProblem(f"{path} has no merges; without them the model reads every word letter by letter")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    if not all(len(pair) == 2 and all(isinstance(half, str) for half in pair) for pair in pairs):
        raise FileProblem(f"{path}: a merge is not a pair of texts")
    return [(left, right) for left, right in pairs]


def _decoders(tokenizer: Mapping[str, Any]) -> set[str]:
    decoder = tokenizer.get("decoder")
    parts = [decoder, *decoder.get("decoders", [])] if isinstance(decoder, dict) else []
    return {str(part.get("type")) for part in parts if isinstance(part, dict)}


def _prepends_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether text is read as if a space stood before it (Llama 2), or not (Gemma)."""
    normalizer, pre = tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}
    parts = [normalizer, *(normalizer.get("normalizers") or [])]
    if any(part.get("type") == "Prepend" for part in parts):
        return True
    steps = [pre, *(pre.get("pretokenizers") or [])]
    return any(step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps)


def _templates(template: str | list[dict[str, str]] | None) -> list[str]:
    """The texts in a chat template, of which a model may have several by name."""
    if isinstance(template, list):
        return [text for entry in template for text in (entry["name"], entry["template"])]
    return [template] if template else []


def _specials(settings: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Role -> token id: the tokenizer's own word first, then config.json's."""
    found: dict[str, int] = {}
    for role in _SPECIAL_ROLES:
        entry = settings.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text in ids:
            found[role] = ids[text]
            continue
        token = config.get(f"{role}_token_id")
        if type(token) is int and 0 <= token < len(ids):
            found[role] = token
    return found


def _turn_end(folder: Path, eos: int | None, vocabulary: Vocabulary) -> int | None:
    """The control token that ends a turn where it is not EOS: generation_config.json lists both."""
    listed = read_optional_json(folder / "generation_config.json").get("eos_token_id")
    others = [i for i in listed if type(i) is int and i != eos] if isinstance(listed, list) else []
    control = [i for i in others if 0 <= i < len(vocabulary.kinds) and vocabulary.kinds[i] == gguf.TokenType.CONTROL]
    return control[-1] if control else None


def _added(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], vocabulary: Vocabulary, specials: Mapping[str, int]
) -> dict[str, bool]:
    """Which special tokens the tokenizer puts around every text, by its post-processor, else by its settings."""
    first, last = _template_ends(tokenizer)
    found: dict[str, bool] = {}
    for role, text in (("bos", first), ("eos", last)):
        setting = settings.get(f"add_{role}_token")
        if text is not None:
            found[role] = role in specials and vocabulary.tokens[specials[role]] == text
        elif isinstance(setting, bool):
            found[role] = setting and role in specials
        elif role == "bos":
            found[role] = vocabulary.model == "llama" and role in specials
    return found


def _template_ends(tokenizer: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The special tokens before and after a text; "" for none, None where the post-processor does not say."""
    processor = tokenizer.get("post_processor")
    parts = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            single = part.get("single") or [{}]
            first, last = (end.get("SpecialToken", {}).get("id") for end in (single[0], single[-1]))
            return str(first or ""), last
    return ("", "") if any(part.get("type") == "ByteLevel" for part in parts) else (None, None)


def _chat_template(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[str | list[dict[str, str]] | None, tuple[str, ...]]:
    """The chat template, or several by name, as transformers takes them; and what lost against it.

    Files of their own (chat_template.jinja, additional_chat_templates/) win over tokenizer_config.json, that over
    chat_template.json, which processors of images and sound keep.
    """
    older = read_optional_json(folder / "chat_template.json").get("chat_template")
    sources = {
        "chat_template.jinja": _template_files(folder),
        "tokenizer_config.json": _by_name(settings.get("chat_template")),
        "chat_template.json": _by_name(older),
    }
    said = {name: templates for name, templates in sources.items() if templates}
    if not said:
        return None, ()
    taken, *others = said
    notes = [
        f"{taken} and {other} in {folder} hold different chat templates; {taken} was taken, as transformers does"
        for other in others
        if said[other] != said[taken]
    ]
    templates = said[taken]
    if "default" not in templates:
        notes.append(f"{taken} in {folder} has chat templates named {', '.join(templates)}, and no default one")
    if list(templates) == ["default"]:
        return templates["default"], tuple(notes)
    return [{"name": name, "template": text} for name, text in templates.items()], tuple(notes)


def _template_files(folder: Path) -> dict[str, str]:
    """Templates in files of their own, by name."""
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    return {name: _template_file(path) for name, path in paths.items() if path.is_file()}


def _template_file(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error}") from error
    if what := impostor(raw[:HEAD]):
        raise FileProblem(f"{path} is {what}")
    return decode_text(raw, str(path))


def _by_name(template: Any) -> dict[str, str]:
    """One template, or several by name, as a list or an object: tokenizer_config.json has all three."""
    if isinstance(template, str):
        return {"default": template} if template else {}
    if isinstance(template, dict):
        return template
    return {entry["name"]: entry["template"] for entry in template} if isinstance(template, list) else {}

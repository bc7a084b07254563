"""The model to convert, as its files describe it: a folder, or an adapter over one. Tensors by name, no data read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaaligner_lite.errors import ModelError, UsageError

from .adapter import Adapter, LowRank, both_note, has_adapter, read_adapter
from .architectures import Architecture, find, split, text_name, unwrapped
from .checkpoint import SourceTensor, has_pickles, has_weights, open_checkpoint
from .config import Config
from .hub import locate

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_COMPARED = 64  # rows of an output head that config.json calls tied


@dataclass(frozen=True)
class Model:
    """A model's config and tensors, by their names in the text model alone; `low_rank` is to be merged into them.

    `folder` names it and may hold a manifest; `tokenizer` holds the tokenizer files; `dtype` is what its matrices
    are stored in: F32, F16 or BF16.
    """

    folder: Path
    tokenizer: Path
    architecture: Architecture
    config: Config
    tensors: Mapping[str, SourceTensor]
    low_rank: Mapping[str, LowRank]
    dtype: str
    base: str = ""  # the adapter's base
    notes: tuple[str, ...] = ()  # what was taken where a folder holds more than one thing

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        return self.config.flag("tie_word_embeddings")


def open_model(folder: Path, base: str | None = None) -> Model:
    """Open a model folder, or an adapter folder over `base` (a folder or Hub id; by default the one it names).

    Raises children of MalError for missing or damaged files, unsupported architectures and adapters.
    """
    if folder.is_dir() and has_adapter(folder) and has_weights(folder) and base is None:
        return replace(_open_folder(folder), notes=(both_note(folder, "model"),))
    if not has_adapter(folder):
        if base is not None:
            raise UsageError(f"--base names the base of an adapter, and {folder} holds no adapter_config.json")
        return _open_folder(folder)
    notes = (both_note(folder, "adapter"),) if has_weights(folder) or has_pickles(folder) else ()
    adapter = read_adapter(folder)
    if adapter.invocation:
        raise ModelError(
            f"{folder} is an activated adapter, which acts from its invocation on and cannot be merged; "
            "convert it with --adapter-only and use it beside its base"
        )
    found = locate(base or adapter.base, f"the base of {folder}")
    if found.is_file():
        raise UsageError(
            f"{found} is a GGUF file: an adapter is merged into its base's 16 or 32-bit folder; with --adapter-only it "
            "is converted alone, to be used beside the file"
        )
    return replace(_adapted(_open_folder(found), adapter), notes=notes)


def _open_folder(folder: Path) -> Model:
    checkpoint = open_checkpoint(folder)
    architecture, config = find(checkpoint.config)
    names = unwrapped(checkpoint.tensors)
    tensors: dict[str, SourceTensor] = {}
    for name, stored in names.items():
        if (plain := text_name(name)) is not None:
            tensors |= split(plain, checkpoint.tensors[stored])
    model = Model(folder, folder, architecture, config, tensors, {}, checkpoint.dtype)
    if model.tied and HEAD in tensors:
        _check_tie(model)
    return model


def _check_tie(model: Model) -> None:
    """Raise ModelError if an output head that is called tied is not the embedding: one of them would be lost."""
    head, embedding = (model.tensors[name] for name in (HEAD, EMBEDDING))
    same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
    rows = np.linspace(0, head.rows - 1, _COMPARED).astype(np.int64)
    if not same or not np.array_equal(head.stored()[rows], embedding.stored()[rows]):
        raise ModelError(
            "config.json ties the output head to the embedding, but the weights hold two different ones; "
            "set tie_word_embeddings to false in config.json if the head is meant"
        )


def _one_change(adapter: Adapter) -> bool:
    """Whether an adapter holds one change twice, for an embedding and the head tied to it, as PEFT saves it."""
    head, embedding = adapter.low_rank.get(HEAD), adapter.low_rank.get(EMBEDDING)
    if head is None or embedding is None or head.shape != embedding.shape or head.scale != embedding.scale:
        return False
    rows = np.linspace(0, head.shape[0] - 1, _COMPARED).astype(np.int64)
    return np.array_equal(head.right(), embedding.right()) and np.array_equal(head.left(rows), embedding.left(rows))


def _adapted(base: Model, adapter: Adapter) -> Model:
    """A model with an adapter over it. An adapter on a tied embedding or head unties them: it was trained on one."""
    if base.tied and adapter.keeps_ties and _one_change(adapter):
        adapter = replace(adapter, low_rank={name: pair for name, pair in adapter.low_rank.items() if name != HEAD})
    touched = {*adapter.low_rank, *adapter.replaced}
    tensors = {**base.tensors}
    changes: dict[str, Any] = {}
    if base.tied:
        tensors.pop(HEAD, None)
        if touched & {EMBEDDING, HEAD} and not (adapter.keeps_ties and HEAD not in touched):
            tensors[HEAD] = tensors[EMBEDDING]
            changes["tie_word_embeddings"] = False
    if lost := sorted(touched - set(tensors)):
        raise ModelError(
            f"the adapter changes {lost[0]!r}, which {base.folder} does not have; was it trained on another base?"
        )
    tensors |= adapter.replaced
    if EMBEDDING in adapter.replaced and tensors[EMBEDDING].shape:
        changes["vocab_size"] = tensors[EMBEDDING].shape[0]
    for name, pair in adapter.low_rank.items():
        if pair.shape != tensors[name].shape:
            raise ModelError(
                f"the adapter's change to {name!r} has the shape {pair.shape}, the tensor in "
                f"{base.folder} {tensors[name].shape}; was it trained on another base?"
            )
    own_tokenizer = any((adapter.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    config = Config({**base.config.raw, **changes}, base.config.defaults)
    architecture = base.architecture
    if changes.get("tie_word_embeddings") is False and True in architecture.requires.get("tie_word_embeddings", ()):
        raise ModelError(
            f"the adapter changes the embedding, which llama.cpp's {architecture.gguf} has tied to the head"
        )
    return replace(
        base,
        folder=adapter.folder,
        tokenizer=adapter.folder if own_tokenizer else base.tokenizer,
        config=config,
        tensors=tensors,
        low_rank=adapter.low_rank,
        base=adapter.base or str(base.folder),
    )

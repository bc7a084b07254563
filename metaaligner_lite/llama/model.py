"""Open a GGUF: weights, vocabulary, chat template, manifest. One Model may serve several contexts."""

from __future__ import annotations

import codecs
import ctypes
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import manifest as manifests
from ..errors import FileProblem, ModelError
from ..gguf_file import VOCABULARY, GgufHeader, LongArray, base_fingerprint, read_header
from ..manifest import Manifest
from ..templates import ChatTemplate
from ..thoughts import marks_among
from .library import forget_errors, last_error, library, release_freed_memory

ALL_LAYERS = -1


class Model:
    """Weights and vocabulary of one GGUF file; a `Vocabulary` for pieces.encode. Close it, or use `with`."""

    def __init__(self, handle: Any, header: GgufHeader, gpu_layers: int, unpacked: bool = False) -> None:
        self._lib = library()
        self.handle = handle
        self.header = header
        self.gpu_layers = gpu_layers
        self.unpacked = unpacked  # whether it runs from its copy as F16
        self._vocab = self._lib.llama_model_get_vocab(handle)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = self._lib.llama_model_n_ctx_train(handle)
        self._pieces: dict[int, bytes] = {}

    @property
    def path(self) -> Path:
        """The file it came from."""
        return self.header.path

    @property
    def on_gpu(self) -> bool:
        """Whether layers are on a GPU."""
        return self.gpu_layers != 0 and bool(self._lib.llama_supports_gpu_offload())

    @cached_property
    def manifest(self) -> Manifest | None:
        """What made the model, if this project did."""
        text = self.header.text(manifests.GGUF_KEY)
        return Manifest.from_json(text, str(self.path)) if text else None

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template in the file, if there is one."""
        source = self.header.text("tokenizer.chat_template")
        return ChatTemplate(source, bos=self._token_text("bos"), eos=self.eos_text) if source else None

    @property
    def vocabulary(self) -> Any:
        """llama.cpp's handle of the vocabulary."""
        return self._vocab

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token, "" if there is none."""
        return self._token_text("eos")

    @cached_property
    def bos(self) -> int | None:
        """The token every text begins with, or None if this vocabulary adds none."""
        token = self._lib.llama_vocab_bos(self._vocab)
        return token if token >= 0 and self._lib.llama_vocab_get_add_bos(self._vocab) else None

    @cached_property
    def specials(self) -> Mapping[str, int]:
        """Control tokens, and the chat template's markers, by their text: recognized in scaffold, never in content."""
        control = self._lib.llama_vocab_is_control
        return {self._text_of(i): i for i in range(self.n_vocab) if control(self._vocab, i)} | self._markers

    @cached_property
    def _thought_marks(self) -> frozenset[int]:
        return marks_among(self.specials)

    @cached_property
    def _markers(self) -> dict[str, int]:
        """The chat template's words that the file declares not as control tokens but as user-defined ones.

        llama.cpp recognizes user-defined tokens in any text, so a forged turn would pass for one.
        """
        source = self.header.text("tokenizer.chat_template")
        attribute, user_defined = self._lib.llama_vocab_get_attr, self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED
        tokens = (i for i in range(self.n_vocab) if attribute(self._vocab, i) & user_defined)
        texts = ((self._text_of(i), i) for i in tokens)
        return {text: i for text, i in texts if len(text) > 1 and text.strip() and text in source}

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: no BOS, special tokens not parsed, the chat template's markers taken apart."""
        cuts = {0, len(text)}
        for marker in self._markers:
            cuts.update(found.start() + 1 for found in re.finditer(re.escape(marker), text))
        return [token for a, b in pairwise(sorted(cuts)) for token in self._encode(text[a:b])]

    def _encode(self, text: str) -> list[int]:
        raw = text.encode("utf-8", errors="replace")  # lone surrogates of a broken terminal become "?"
        if not raw:
            return []
        room = len(raw) + 8
        while True:
            tokens = (self._lib.llama_token * room)()
            count = self._lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, False, False)
            if count >= 0:
                return list(tokens[:count])
            if count == -(2**31) or -count <= room:
                raise ModelError(f"llama.cpp cannot tokenize a text of {len(raw):,} bytes with {self.path}")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in text; empty for control tokens, but for those around a model's thoughts."""
        if token not in self._pieces:
            room = 64
            while True:  # a buffer of its own: several threads ask
                buffer = ctypes.create_string_buffer(room)
                special = token in self._thought_marks
                count = self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
                if count >= 0:
                    break
                room = -count
            self._pieces[token] = buffer.raw[:count]
        return self._pieces[token]

    @cached_property
    def end(self) -> tuple[int, ...]:
        """The token that ends a turn, or a text; none if the vocabulary has neither."""
        for token in (self._lib.llama_vocab_eot(self._vocab), self._lib.llama_vocab_eos(self._vocab)):
            if token >= 0:
                return (token,)
        return ()

    def ends(self, token: int) -> bool:
        """Whether a token ends a generation (EOS, EOT and their kin)."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def whole(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens without those at the end that spell only the beginning of a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(b"".join(map(self.piece, tokens)))
        half, end = len(decoder.getstate()[0]), len(tokens)
        while half and (length := len(self.piece(tokens[end - 1]))) <= half:
            half, end = half - length, end - 1
        return tuple(tokens[:end])

    def text(self, tokens: Iterable[int]) -> str:
        """The text that tokens spell, without half a character at its end."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return decoder.decode(b"".join(map(self.piece, tokens)))

    def close(self) -> None:
        """Free the weights. Contexts over this model must be closed first."""
        if self.handle is not None:
            self._lib.llama_model_free(self.handle)
            self.handle = None
            release_freed_memory()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _token_text(self, which: str) -> str:
        token = getattr(self._lib, f"llama_vocab_{which}")(self._vocab)
        return self._text_of(token) if token >= 0 else ""

    def _text_of(self, token: int) -> str:
        return str(self._lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", errors="replace"))


def open_model(
    path: str | Path,
    *,
    gpu_layers: int = ALL_LAYERS,
    repack: bool | None = None,
    weights: Path | None = None,
) -> Model:
    """Load a GGUF model. `gpu_layers` go to a GPU where the library has one (-1: all).

    `repack` lets llama.cpp rearrange weights for this processor; None asks the safe-start probe, since on some
    machines that crashes (probe.py). `weights` is a copy of the file that is loaded in its place (unpacked.py). Raises
    FileProblem for a file that is not a usable model, ModelError if llama.cpp refuses it.
    """
    path = Path(path)
    header = read_header(path)
    check(header)
    lib = library()
    if repack is None:
        from .probe import repack_is_safe

        repack = repack_is_safe()
    weights = weights or path
    params = lib.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.use_extra_bufts = repack
    if repack and weights == path and (gpu_layers == 0 or not lib.llama_supports_gpu_offload()):
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE  # a mapped file would stay in memory beside its rearranged copy
    forget_errors()
    handle = lib.llama_model_load_from_file(str(weights).encode(), params)
    if not handle:
        raise ModelError(
            f"llama.cpp cannot open {path}: {last_error('no reason given')}; "
            "a newer llama-cpp-python may know it, else convert it again"
        )
    if lib.llama_model_has_encoder(handle) or not lib.llama_model_has_decoder(handle):
        lib.llama_model_free(handle)
        raise FileProblem(f"{path} ({header.text('general.architecture')}) does not write text; expected a chat model")
    return Model(handle, header, gpu_layers, weights != path)


@dataclass(frozen=True)
class Adapter:
    """An activated LoRA adapter over a model: it acts from the `invocation` tokens on, never before (aLoRA)."""

    handle: Any
    header: GgufHeader
    invocation: tuple[int, ...]

    @property
    def manifest(self) -> Manifest | None:
        """What made the adapter, if this project did."""
        text = self.header.text(manifests.GGUF_KEY)
        return Manifest.from_json(text, str(self.header.path)) if text else None


def open_adapter(model: Model, path: str | Path, *, force: bool = False) -> Adapter:
    """Load an activated adapter for `model`, which owns it from then on.

    Raises FileProblem for a file that is none, ModelError if it does not fit the model, or was trained on another
    base, whatever its quantization (unless `force`). An ordinary LoRA is refused: it would change what the policy says,
    and no KV cache could be shared.
    """
    path = Path(path)
    header = read_header(path)
    if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
        raise FileProblem(
            f"{path} is not a LoRA adapter in GGUF format; `mal convert ADAPTER --adapter-only` makes one"
        )
    invocation = header.metadata.get("adapter.alora.invocation_tokens", ())
    if not isinstance(invocation, tuple) or not invocation:
        raise FileProblem(
            f"{path} is an ordinary LoRA, expected an activated one (train-lora --kind activated); "
            "merge it into its base instead (mal convert) and name the result as `aligner`"
        )
    base, own = model.header.text("general.architecture"), header.text("general.architecture")
    if base != own:
        raise ModelError(f"{path} is an adapter for the architecture {own!r}, but {model.path} is {base!r}")
    trained = Manifest.from_json(text, str(path)) if (text := header.text(manifests.GGUF_KEY)) else None
    if trained and trained.fingerprint and not force and trained.fingerprint != base_fingerprint(model.header):
        raise ModelError(
            f"{path.name} was trained on {trained.base or 'another base'}, and {model.path.name} is another model "
            "of the same shape: its edits would be nonsense; name that base, or use `force` to try all the same"
        )
    lib = library()
    forget_errors()
    handle = lib.llama_adapter_lora_init(model.handle, str(path).encode())
    if not handle:
        raise ModelError(f"the adapter {path} does not fit {model.path}: {last_error('no reason given')}")
    return Adapter(handle, header, invocation)


def check(header: GgufHeader) -> None:
    """Raise FileProblem for what llama.cpp would not open as a model, or would end the process over."""
    kind = header.text("general.type", "model")
    if kind == "adapter":
        raise FileProblem(f"{header.path} is a LoRA adapter, expected a whole model; name it as `adapter`")
    if kind not in ("model", ""):
        raise FileProblem(f"{header.path} holds a {kind!r}, expected a language model")
    if not header.tensors:
        raise FileProblem(f"{header.path} holds a vocabulary and no weights; expected a whole model")
    if not header.text("general.architecture"):
        raise FileProblem(f"{header.path} names no architecture; convert it again")
    # llama.cpp ends the process over what follows instead of refusing the file.
    tokens = header.metadata.get(VOCABULARY, ())
    if not (tokens.distinct if isinstance(tokens, LongArray) else len(set(tokens)) == len(tokens)):
        raise FileProblem(f"{header.path} holds a token twice; it is damaged, download or convert it again")
    for key, value in header.metadata.items():
        if isinstance(value, float) and (not math.isfinite(value) or (value < 0 and key.endswith("epsilon"))):
            raise FileProblem(f"{header.path} says {key} = {value}; it is damaged, download or convert it again")
    header.check_tensors()

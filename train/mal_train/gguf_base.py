"""A GGUF file as the base of a training: its weights as numbers, its tokenizer as files, in a Hugging Face folder.

An adapter over a quantized base should be trained on the numbers that will run. The folder is an ordinary one, so that
nothing behind it knows where it came from. Its tokenizer is compared with llama.cpp's own before it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaaligner_lite.errors import FileProblem, MalError, ModelError
from metaaligner_lite.gguf_config import ROPE_FACTORS, hf_config
from metaaligner_lite.gguf_file import GgufHeader, TensorInfo, read_header

if TYPE_CHECKING:
    from metaaligner_lite.llama.model import Model

_WHOLE = 1 << 24  # vocabularies are read, too
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
# How llama.cpp cuts text for byte-level BPE, by the names of its pre-tokenizers: "digits" one by one, or an expression.
_CUTS: Mapping[str, str] = {
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _SHORT + _LETTERS + r"|\p{N}{1,3}" + _TAIL),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _SHORT + _LETTERS + r"|\p{N}" + _TAIL),
    **dict.fromkeys(("gpt-2", "default", "phi-2"), ""),
}
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # these take a word that is a token without merging


def is_gguf(base: Path) -> bool:
    """Whether a base is named by a GGUF file."""
    return base.suffix.lower() == ".gguf" or base.is_file()


def unpack(path: Path, folder: Path) -> Path:
    """Write the model in a GGUF file to `folder` as config.json, safetensors and tokenizer files; return the folder.

    A folder left whole by an earlier call is taken as it is. Raises FileProblem for a damaged file, ModelError for one
    that is no Llama, Qwen 2 or Qwen 3, of a type that cannot be turned into numbers, or of an unknown tokenizer.
    """
    header = read_header(path, _WHOLE)
    header.check_tensors()
    config = hf_config(header)
    if (folder / "config.json").exists():  # written last
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _write_tokenizer(header, folder)
        _write_weights(header, config, folder)
        ends = {f"{role}_token_id": header.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
        (folder / "config.json").write_text(json.dumps(config | ends, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileProblem(f"cannot write the numbers of {path} to {folder}: {error}") from error
    return folder


def _numbers(header: GgufHeader, tensor: TensorInfo) -> np.ndarray:
    """A tensor as float32, in PyTorch's order of dimensions."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = np.memmap(header.path, np.uint8, "r", header.data_offset + tensor.offset, (tensor.bytes,))
    shape = tensor.shape[::-1]
    kind = GGMLQuantizationType(tensor.type)
    try:
        if kind == GGMLQuantizationType.F32:
            return stored.view(np.float32).reshape(shape)
        if kind == GGMLQuantizationType.F16:
            return stored.view(np.float16).astype(np.float32).reshape(shape)
        rows = stored.reshape(*shape[:-1], -1)
        return np.asarray(dequantize(rows, kind), np.float32).reshape(shape)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ModelError(
            f"{header.path}: tensor {tensor.name!r} of type {tensor.type_name} cannot be turned into numbers "
            f"({error}); take another quantization of the same model"
        ) from error


def _write_weights(header: GgufHeader, config: Mapping[str, Any], folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = dict(_tensors(header, config))
    expected = _expected(config)
    if wrong := sorted(expected - tensors.keys()) or sorted(tensors.keys() - expected):
        raise ModelError(f"{header.path} is no plain {config['model_type']}: {wrong[0]!r} is missing or one too many")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(header: GgufHeader, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in header.tensors:
        if tensor.name == ROPE_FACTORS:
            continue
        stem, _, kind = tensor.name.rpartition(".")
        name, outer = _OUTER.get(stem), stem
        if stem.startswith("blk."):
            _, number, outer = stem.split(".", 2)
            name = f"model.layers.{number}.{_LAYER[outer]}" if outer in _LAYER else None
        if name is None or kind not in ("weight", "bias"):
            raise ModelError(f"{header.path} is no plain {config['model_type']}: it holds {tensor.name!r}")
        values = _numbers(header, tensor)
        if config["model_type"] == "llama" and outer in heads:  # llama.cpp rotates neighbours, transformers halves
            pairs = values.reshape(heads[outer], config["head_dim"] // 2, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        yield f"{name}.{kind}", np.ascontiguousarray(values)


def _expected(config: Mapping[str, Any]) -> set[str]:
    """The names of all tensors of such a model."""
    family = config["model_type"]
    layer = [
        f"{name}.weight"
        for gguf, name in _LAYER.items()
        if family == "qwen3" or not gguf.endswith(("q_norm", "k_norm"))
    ]
    if family == "qwen2" or config.get("attention_bias"):
        layer += [f"self_attn.{p}_proj.bias" for p in ("q", "k", "v")]
    if config.get("attention_bias"):
        layer.append("self_attn.o_proj.bias")
    names = {f"model.layers.{i}.{name}" for i in range(config["num_hidden_layers"]) for name in layer}
    names |= {"model.embed_tokens.weight", "model.norm.weight"}
    return names if config["tie_word_embeddings"] else names | {"lm_head.weight"}


# --- the tokenizer ---


def _write_tokenizer(header: GgufHeader, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json; refused unless they read text as llama.cpp does."""
    from transformers import PreTrainedTokenizerFast

    said = header.metadata
    tokens, kinds = said.get("tokenizer.ggml.tokens"), said.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, tuple) or not isinstance(kinds, tuple) or len(kinds) != len(tokens):
        raise ModelError(f"{header.path} holds no vocabulary that could be read; name the folder it was made of")
    template = header.text("tokenizer.chat_template")
    with vocabulary(header.path) as native:
        bos = native.bos
        try:
            backend = _backend(header, tokens, kinds, template, bos)
        except Exception as error:  # the library raises no narrower one
            if isinstance(error, MalError):
                raise
            raise ModelError(f"{header.path}: its tokenizer cannot be rebuilt ({error}); name its folder") from error
        named = {}
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            number = said.get(f"tokenizer.ggml.{key}_token_id")
            if isinstance(number, int) and 0 <= number < len(tokens):
                named[f"{role}_token"] = tokens[number]
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
        fast.chat_template = template or None
        fast.save_pretrained(folder)
        backend.encode_special_tokens = True
        for text in _probe():
            ours, theirs = backend.encode(text, add_special_tokens=False).ids, native.encode_text(text)
            if ours != theirs:
                at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
                raise ModelError(
                    f"{header.path}: its tokenizer ({header.text('tokenizer.ggml.pre', 'default')}) cannot be rebuilt: "
                    f"{text[:30]!r} reads otherwise at token {at}; name the Hugging Face folder it was made of"
                )


def _backend(
    header: GgufHeader, tokens: tuple[str, ...], kinds: tuple[int, ...], template: str, bos: int | None
) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, processors

    model, vocabulary = header.text("tokenizer.ggml.model"), {text: i for i, text in enumerate(tokens)}
    if model == "gpt2":
        backend = _byte_level(header, vocabulary)
    elif model == "llama":
        backend = _sentencepiece(header, vocabulary, kinds)
    else:
        raise ModelError(f"{header.path}: a tokenizer of the kind {model!r} cannot be rebuilt; name its folder")
    # The template's own marks, which some files declare as user-defined, begin turns: never to be read out of a text.
    special = {
        text
        for text, kind in zip(tokens, kinds, strict=True)
        if kind == _CONTROL or (kind == _USER and _marks(text, template))
    }
    added = [
        AddedToken(t, special=t in special, normalized=False)
        for t, k in zip(tokens, kinds, strict=True)
        if t in special or k == _USER
    ]
    backend.add_tokens([token for token in added if not token.special])
    backend.add_special_tokens([token for token in added if token.special])
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    assert isinstance(backend, Tokenizer) and isinstance(backend.model, models.Model)
    return backend


def _marks(text: str, template: str) -> bool:
    return len(text) > 1 and bool(text.strip()) and text in template


def _byte_level(header: GgufHeader, vocabulary: Mapping[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = header.text("tokenizer.ggml.pre", "default")
    if pre not in _CUTS:
        raise ModelError(
            f"{header.path}: the pre-tokenizer {pre!r} cannot be rebuilt, {', '.join(_CUTS)} can; name its folder"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in header.metadata.get("tokenizer.ggml.merges") or ()]
    backend = Tokenizer(models.BPE(dict(vocabulary), merges, ignore_merges=pre in _WHOLE_WORDS))
    cut, letters = _CUTS[pre], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if cut == "digits":
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), letters])
    elif cut:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), "isolated"), plain])
    else:
        backend.pre_tokenizer = letters
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(header: GgufHeader, vocabulary: Mapping[str, int], kinds: tuple[int, ...]) -> Any:
    """Pieces joined in the order of their scores: as merges, all ways to make a piece of two others."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, tuple) or len(scores) != len(kinds):
        raise ModelError(f"{header.path}: its tokenizer has no scores; name the Hugging Face folder it was made of")
    merges = []
    for text, i in vocabulary.items():
        if kinds[i] not in (_NORMAL, _USER):
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[i], vocabulary[left], vocabulary[right], left, right))
    merges.sort()
    unknown = header.metadata.get("tokenizer.ggml.unknown_token_id", 0)
    texts = list(vocabulary)
    backend = Tokenizer(
        models.BPE(
            dict(vocabulary),
            [(left, right) for *_, left, right in merges],
            unk_token=texts[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    if header.metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def vocabulary(path: Path) -> Model:
    """llama.cpp's own reading of a file's vocabulary, no weights."""
    from metaaligner_lite.llama.library import forget_errors, last_error, library
    from metaaligner_lite.llama.model import Model

    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    forget_errors()
    handle = lib.llama_model_load_from_file(str(path).encode(), params)
    if not handle:
        raise ModelError(f"llama.cpp cannot read the vocabulary of {path}: {last_error('no reason given')}")
    return Model(handle, read_header(path), 0)


def _probe() -> list[str]:
    text = "\n".join(
        (
            "The quick brown fox can't jump; it's THE FOX'S day, they'll say, we've heard, I'm sure you'd agree.",
            "Ünïcödé naïve café, Ελληνικά, Русский текст, עברית, العربية, हिन्दी, 中文字符测试, 日本語, 한국어",
            "0 1 12 123 1234 12345 3.14 1,000,000 2024-05-17 x86_64 v1.2.3 ½ ²",
            "  two   three    four     \ttabs\t\tmore \t mixed \r\n windows\r\n\r\n\n\n\nblank lines   \n   end",
            "def f(x):\n    return {'a': [1, 2], \"b\": x**2 + y[0] // 3}  # comment\n\tif (a&&b||!c) -> <T>;",
            "😀👍🏽👩‍👩‍👧 ❤️ ✅ … — “quotes” «guillemets» ¿qué? §1 €5 50% #tag @you a_b-c/d\\e <|im_end|>",
            "!!! ??? ...... ------ (((nested))) [[x]] {{y}} <b>bold</b> http://a.b/c?d=e&f=g#h",
        )
    )
    return [*text.split("\n"), text]

"""Tiny random models with the shapes of real ones, and tokenizers trained by the same rules as released ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The parcel is a week late and nobody answers my emails.",
    "I'm sorry to hear that, we'll look into it today; you'll hear from us by 5 pm. Don't worry!",
    "def f(x):\n    return x ** 2 + 10 // 3  # a comment\n\tif (a && b) { c = d[0]; }",
    "Русский текст и ещё немного. Ünïcödé naïve café. 中文字符测试 日本語テキスト 한국어 😀👍 123 4567 3.14",
    "  two   three    four     five\n\n\nblank\t\ttabs",
] * 4


def byte_level_tokenizer(
    folder: Path, pre: str = "smollm", size: int = 512, tokenizer_class: str = "PreTrainedTokenizerFast"
) -> Any:
    """Train and save a byte-level BPE tokenizer with the pre-tokenizer of a released model; returns it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm", "starcoder"))
    steps = [level]
    if pre in ("smollm", "starcoder"):
        steps = [pre_tokenizers.Digits(individual_digits=True), level]
    elif pre != "gpt-2":
        from mal_convert.pretokenizer import _BY_PATTERN

        pattern = next(pattern for pattern, names in _BY_PATTERN.items() if pre in names)
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), level]
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else level
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<plain added>", normalized=False)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    wrapped.save_pretrained(folder)
    as_released(folder, "GPT2Tokenizer" if pre == "gpt-4o" else tokenizer_class)
    return wrapped


def as_released(folder: Path, tokenizer_class: str) -> None:
    """Put into tokenizer_config.json what released models have there and transformers 5 no longer writes."""
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = tokenizer_class
    settings["added_tokens_decoder"] = {str(entry.pop("id")): entry for entry in added}
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def random_model(config: Any, folder: Path, dtype: str = "float32", seed: int = 0) -> Any:
    """A random transformers model whose weights are large enough to make greedy choices clear; saved and returned."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        embedding = 0.6 / (config.hidden_size**0.5 / 2 if "gemma" in config.model_type else 1)
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(torch.randn_like(weight) * 0.1 + (0.0 if "gemma" in config.model_type else 1.0))
            else:
                weight.copy_(
                    torch.randn_like(weight) * (embedding if "embed" in name else 1.5 * weight.shape[-1] ** -0.5)
                )
    model.save_pretrained(folder)
    return model


def sentencepiece_tokenizer(folder: Path, *, prefix: bool = True, size: int = 400, model_file: bool = True) -> Any:
    """Train a SentencePiece BPE with byte fallback; saved as tokenizer.model and as the tokenizer.json made of it.

    `prefix`: a space is read before every text, as in Llama 2 (not in Gemma).
    """
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    text = folder / "corpus.txt"
    text.write_text("\n".join(line for doc in CORPUS for line in doc.split("\n")), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
        hard_vocab_limit=False,
        character_coverage=0.98,
    )
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    vocab = {pieces.IdToPiece(i): i for i in range(pieces.GetPieceSize())}
    merges = []
    for piece, i in vocab.items():
        for cut in range(1, len(piece)):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append((-pieces.GetScore(i), vocab[piece[:cut]], vocab[piece[cut:]], piece[:cut], piece[cut:]))
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    end = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *end]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    wrapped.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    wrapped.save_pretrained(folder)
    as_released(folder, "PreTrainedTokenizerFast")
    if not model_file:
        (folder / "tokenizer.model").unlink()
    return wrapped


def save(config_class: str, tokenizer: Any, folder: Path, *, dtype: str = "float32", **overrides: Any) -> None:
    """A random two-layer model, 256 wide (a K-quant block), grouped-query attention, for a tokenizer."""
    import transformers

    settings = {
        "vocab_size": len(tokenizer) + 3,  # padded, as released ones are
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    random_model(getattr(transformers, config_class)(**(settings | overrides)), folder, dtype)


def llama(folder: Path, *, dtype: str = "float32") -> None:
    """The plainest one, with SmolLM's tokenizer and tied embeddings."""
    tokenizer = byte_level_tokenizer(folder)
    save("LlamaConfig", tokenizer, folder, dtype=dtype, tie_word_embeddings=True, vocab_size=len(tokenizer))


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA = {"head_dim": 128, "query_pre_attn_scalar": 128, "sliding_window": 16}
TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + i / 4 for i in range(32)],
    "short_factor": [1.0 + i / 16 for i in range(32)],
    "original_max_position_embeddings": 512,
}
PARTIAL = {
    **LONG,
    "partial_rotary_factor": 0.75,
    "long_factor": [1.0 + i / 4 for i in range(24)],
    "short_factor": [1.0 + i / 16 for i in range(24)],
}

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
    "logits_scaling": 8.0,
    "tie_word_embeddings": True,
}


def granite_4(folder: Path) -> None:
    """A dense one of Granite 4: the hybrid's class with attention alone and no experts."""
    save(
        "GraniteMoeHybridConfig",
        byte_level_tokenizer(folder, "gpt-4o"),
        folder,
        **GRANITE,
        layer_types=["attention", "attention"],
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=512,
        position_embedding_type="rope",
        mamba_n_heads=8,
    )
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"layer_types": ["attention", "attention"]}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


# Name -> how to make one. Each stands for a released family: its tokenizer's rules, its config's peculiarities.
FAMILIES: dict[str, Callable[[Path], None]] = {
    "llama-2": lambda f: save("LlamaConfig", sentencepiece_tokenizer(f), f),
    "llama-3.2": lambda f: save(
        "LlamaConfig",
        byte_level_tokenizer(f, "llama-bpe"),
        f,
        rope_parameters=LLAMA3_ROPE,
        tie_word_embeddings=True,
        max_position_embeddings=131072,
    ),
    "llama-linear": lambda f: save(
        "LlamaConfig",
        sentencepiece_tokenizer(f),
        f,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "llama-biases": lambda f: save(
        "LlamaConfig", byte_level_tokenizer(f), f, attention_bias=True, mlp_bias=True, head_dim=32
    ),
    "tinyllama": lambda f: save("LlamaConfig", sentencepiece_tokenizer(f, model_file=False), f, dtype="bfloat16"),
    "smollm2": lambda f: save("LlamaConfig", byte_level_tokenizer(f), f, dtype="bfloat16", tie_word_embeddings=True),
    "mistral": lambda f: save("MistralConfig", sentencepiece_tokenizer(f), f, sliding_window=None),
    "mistral-nemo": lambda f: save("MistralConfig", byte_level_tokenizer(f, "tekken"), f, head_dim=32),
    "qwen2.5": lambda f: save("Qwen2Config", byte_level_tokenizer(f, "qwen2"), f, tie_word_embeddings=True),
    "qwen2.5-yarn": lambda f: save("Qwen2Config", byte_level_tokenizer(f, "qwen2"), f, rope_parameters=YARN),
    "qwen3": lambda f: save("Qwen3Config", byte_level_tokenizer(f, "qwen2"), f, head_dim=128),
    "gemma-2": lambda f: save("Gemma2Config", sentencepiece_tokenizer(f, prefix=False), f, **GEMMA),
    "gemma-3": lambda f: save(
        "Gemma3TextConfig", sentencepiece_tokenizer(f, prefix=False), f, num_hidden_layers=7, **GEMMA
    ),
    "gemma-3-4b": lambda f: save(
        "Gemma3TextConfig",
        sentencepiece_tokenizer(f, prefix=False),
        f,
        num_hidden_layers=7,
        rope_parameters=TWO_ROPES,
        **GEMMA,
    ),
    "phi-3": lambda f: save("Phi3Config", sentencepiece_tokenizer(f), f),
    "phi-3.5": lambda f: save(
        "Phi3Config",
        sentencepiece_tokenizer(f),
        f,
        rope_parameters=LONG,
        max_position_embeddings=2048,
        original_max_position_embeddings=512,
    ),
    "phi-4-mini": lambda f: save(
        "Phi3Config",
        byte_level_tokenizer(f, "gpt-4o"),
        f,
        rope_parameters=PARTIAL,
        max_position_embeddings=2048,
        original_max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
    "phi-4": lambda f: save(
        "Phi3Config",
        byte_level_tokenizer(f, "llama-bpe", tokenizer_class="GPT2Tokenizer"),
        f,
        sliding_window=None,
        rope_theta=250000.0,
        max_position_embeddings=16384,
        original_max_position_embeddings=16384,
    ),
    "qwen2-moe": lambda f: save(
        "Qwen2MoeConfig", byte_level_tokenizer(f, "qwen2"), f, **EXPERTS, shared_expert_intermediate_size=256
    ),
    "qwen3-moe": lambda f: save(
        "Qwen3MoeConfig", byte_level_tokenizer(f, "qwen2"), f, **EXPERTS, norm_topk_prob=True, head_dim=128
    ),
    "granite-3": lambda f: save("GraniteConfig", byte_level_tokenizer(f, "starcoder"), f, **GRANITE),
    "granite-4": lambda f: granite_4(f),
    "olmo-2": lambda f: save("Olmo2Config", byte_level_tokenizer(f, "llama-bpe"), f),
    "smollm3": lambda f: save("SmolLM3Config", byte_level_tokenizer(f, "llama-bpe"), f, num_hidden_layers=4),
}


def adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """Save a random LoRA adapter of `base`; returns the PEFT model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    defaults = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(defaults | settings))).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                weight.copy_(torch.randn_like(weight) * 0.2)
            elif "magnitude" in name or "modules_to_save" in name:
                weight.copy_(weight * (1 + 0.3 * torch.rand_like(weight)))
    adapted.save_pretrained(folder)
    return adapted


def greedy(folder: Path, prompt: str, steps: int) -> tuple[list[int], list[int]]:
    """The ids of a prompt, and the `steps` tokens transformers writes after it, in float32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt, add_special_tokens=False).ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    written = model.generate(
        torch.tensor([ids]), max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return ids, written[0, len(ids) :].tolist()


def logits(folder: Path, ids: list[int]) -> Any:
    """Logits of transformers in float32, shape (len(ids), vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def tensor_bytes(path: Path) -> dict[str, Any]:
    """Name -> type, shape and bytes of each tensor in a GGUF file."""
    from metaaligner_lite.gguf_file import read_header

    header, raw = read_header(path), path.read_bytes()
    at = header.data_offset
    return {t.name: (t.type, t.shape, raw[at + t.offset : at + t.offset + t.bytes]) for t in header.tensors}

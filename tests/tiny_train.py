"""A base model of a few thousand weights and a handful of rated rows, for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mal_train.recipe import STAGES

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "Where is my parcel? It is a week late. I am sorry to hear that; we will look into it today. Edit improve equal."
)


SMOKE = {"training.batch_tokens": 512, "data.max_length": 256, "lora.rank": 4} | {
    f"stages.{stage}.{key}": value for stage in STAGES for key, value in (("steps", 3), ("lr", 1e-2))
}


@pytest.fixture(name="_one_thread", autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost a model this small more than they give, most of all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(name="base", scope="module")
def base_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


def make_base(
    folder: Path,
    *,
    tied: bool = True,
    template: str | None = CHATML,
    bos: bool = False,
    spread: float = 0.02,
    family: str = "llama",
    hidden: int = 32,
) -> Path:
    """A random 2-layer Llama (or one of its family) with its tokenizer, saved as a Hugging Face folder.

    With the usual `spread` of its weights hardly any loss can be learnt away: the head's are small, and frozen.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>")
    fast.chat_template = template
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(fast) + 8 * (family == "qwen2"),  # transformers adds tokens to that family's vocabulary
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=spread,
        bos_token_id=0,
        eos_token_id=3,
        **({"sliding_window": None} if family == "mistral" else {}),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def row(query: str, *answers: tuple[str, dict[str, Any]], **extra: Any) -> dict[str, Any]:
    return {"query": query, "answers": [{"text": text, "ratings": ratings} for text, ratings in answers], **extra}


def write_rows(path: Path, rows: list[Any]) -> Path:
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def some_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        row(
            f"Where is parcel {i}?",
            (f"No idea about {i}.", {"empathy": 0, "brevity": 1, "clarity": 1}),
            (
                f"I am sorry to hear that parcel {i} is late; we will look into it today.",
                {"empathy": 1, "brevity": 0, "clarity": 1},
            ),
            (f"I am sorry. Parcel {i} is late.", {"empathy": 1, "brevity": 1, "clarity": 1}),
            id=str(i),
        )
        for i in range(count)
    ]

"""The tokenizer of the demo pair: byte-level BPE, the same pre-tokenizer as SmolLM, ChatML turns.

``tokenizers`` is imported inside functions so that the generator's package stays free of it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENDOFTEXT, IM_START, IM_END = range(3)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: The longest conversation, in tokens; also the model's ``max_position_embeddings``.
MAX_TOKENS = 2048


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Learn merges from ``texts``; the special tokens get the ids 0, 1 and 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    plain_text_only(tokenizer)
    return tokenizer


def plain_text_only(tokenizer: Tokenizer) -> None:
    """Encode "<|im_end|>" in a text as ordinary characters: messages never make scaffold."""
    tokenizer.encode_special_tokens = True


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[ENDOFTEXT],
        "unk_token": SPECIAL_TOKENS[ENDOFTEXT],
        "pad_token": SPECIAL_TOKENS[ENDOFTEXT],
        "eos_token": SPECIAL_TOKENS[IM_END],
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_TOKENS,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _runs(messages: Sequence[dict[str, str]]) -> Iterator[tuple[str, bool]]:
    """The plain-text runs between special tokens, and whether the run is an assistant's to learn from."""
    for message in messages:
        learned = message["role"] == "assistant" and "given" not in message
        yield f"{message['role']}\n{message['content']}", learned


def encode_chats(tokenizer: Tokenizer, chats: Sequence[Sequence[dict[str, str]]]) -> list[tuple[array[int], bytes]]:
    """Token ids of whole conversations, and for each token whether it is a training target.

    Targets are the assistant's content and the ``<|im_end|>`` after it, unless the message is marked ``given``. Each
    run of text between two special tokens is encoded as one string, as a tokenizer does that is given the rendered
    template.
    """
    runs = [run for chat in chats for run in _runs(chat)]
    encoded = iter(tokenizer.encode_batch_fast([text for text, _ in runs], add_special_tokens=False))
    head = len(tokenizer.encode("assistant\n", add_special_tokens=False).ids)
    newline = tokenizer.encode("\n", add_special_tokens=False).ids
    rows = []
    for chat in chats:
        ids, targets = array("H"), bytearray()
        for message in chat:
            run, answer = next(encoded).ids, message["role"] == "assistant" and "given" not in message
            skip = 1 + (head if answer else len(run))
            ids.extend([IM_START, *run, IM_END, *newline])
            targets.extend(b"\0" * skip + (b"\1" * (len(run) - head + 1) if answer else b"\0"))
            targets.extend(b"\0" * len(newline))
        rows.append((ids[:MAX_TOKENS], bytes(targets[:MAX_TOKENS])))
    return rows


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation up to the point where the assistant begins to write."""
    newline = tokenizer.encode("\n", add_special_tokens=False).ids
    ids: list[int] = []
    for text, _ in _runs(messages):
        ids += [IM_START, *tokenizer.encode(text, add_special_tokens=False).ids, IM_END, *newline]
    return [*ids, IM_START, *tokenizer.encode("assistant\n", add_special_tokens=False).ids]

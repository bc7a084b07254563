"""Train the demo base model from nothing: ``python -m mal_train.demo.base --chats DIR/chats.jsonl --out DIR/base``.

The base is a Llama of a few million parameters and at the same time the demo's policy: it has seen mostly weak
answers, so it writes weak answers. The loss covers the assistant's turns only. The users' turns are mostly random
names and numbers that nobody can predict, and without them the output layer, a fifth of the work, runs on the
answer's positions alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaaligner_lite.objectives import builtin_catalogue
from metaaligner_lite.prompts import CONVERSATION, ChatTemplate, edit_prompt

from ..attention import attend_in_float32
from ..lora import faster_on_cpu
from . import circuits, drills, tokens
from .drills import Row

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from .muon import Muon


#: Of 1e4, 1e5 and 1e6 the one with which the written copying circuit repeats most (bench/LOG.md).
THETA = 10_000.0


#: Seconds after which a step counts as paused, by whoever needed the machine.
LONGEST_STEP = 8.0
#: Minutes between copies of a model in training, which are there if it is stopped.
KEEP_MINUTES = 4.0
_SCAFFOLD = re.compile(r"<\|im_(?:start|end)\|>(?:user\n|assistant\n)?")


@dataclass(frozen=True)
class Settings:
    """What a run is made of; the first of the three limits ends it.

    ``minutes`` and a ``precision`` of "auto" depend on the machine, the rest does not.
    """

    minutes: float = math.inf
    steps: float = math.inf
    tokens: float = math.inf
    seed: int = 0
    layers: int = 4
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    drill_tokens: int = 300_000  # of random tokens to repeat, before anything else
    drills: float = 0.1  # share of such batches later
    circuit: bool = True  # begin with a copying circuit written into the weights
    warmup: float = 0.03
    precision: str = "auto"  # bfloat16 where it is faster, else float32
    muon: bool = True

    @property
    def bf16(self) -> bool:
        """Whether products are computed in bfloat16."""
        return self.precision == "bfloat16"


def read_chats(path: Path) -> list[list[dict[str, str]]]:
    """All conversations of a ``chats.jsonl``."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["messages"] for line in file]


def _tokenizer_texts(chats: Sequence[Sequence[dict[str, str]]], pairs: Path) -> Iterator[str]:
    """Texts to learn merges from: conversations, and some of the aligner's answers if they are at hand."""
    for chat in itertools.islice(chats, 20000):
        for message in chat:
            yield message["content"]
    for objective in builtin_catalogue().values():  # edit requests are long; common words in them become one token
        turns = edit_prompt(CONVERSATION, "", "", [objective], ChatTemplate(tokens.CHAT_TEMPLATE))
        yield from [_SCAFFOLD.sub("", "".join(piece.text for piece in turns))] * 100
    if pairs.exists():
        with pairs.open(encoding="utf-8") as file:
            for line in itertools.islice(file, 10000):
                for answer in json.loads(line)["answers"]:
                    yield answer["text"]


def make_batches(rows: Sequence[Row], budget: int, rng: random.Random) -> list[list[Row]]:
    """Group rows of similar length, each batch at most ``budget`` tokens with its padding."""
    order = list(rows)
    rng.shuffle(order)
    batches: list[list[Row]] = []
    for start in range(0, len(order), 2048):
        chunk = sorted(order[start : start + 2048], key=lambda row: len(row[0]))
        batch: list[Row] = []
        for row in chunk:
            if batch and len(row[0]) * (len(batch) + 1) > budget:
                batches.append(batch)
                batch = []
            batch.append(row)
        if batch:
            batches.append(batch)
    rng.shuffle(batches)
    return batches


def collate(batch: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input ids, the positions whose next token is a target, and those targets.

    Padding stands at the end, where a causal model needs no mask to ignore it.
    """
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for index, (row, targets) in enumerate(batch):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        wanted[index, : len(row)] = torch.frombuffer(bytearray(targets), dtype=torch.uint8).bool()
    return ids[:, :-1], wanted[:, 1:], ids[:, 1:][wanted[:, 1:]]


def new_model(vocab_size: int, layers: int) -> Any:
    """A randomly initialised Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=tokens.MAX_TOKENS,
        rope_theta=THETA,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=tokens.ENDOFTEXT,
        eos_token_id=tokens.IM_END,
        pad_token_id=tokens.ENDOFTEXT,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokens.IM_END
    model.generation_config.bos_token_id = tokens.ENDOFTEXT
    model.generation_config.pad_token_id = tokens.ENDOFTEXT
    return model


def make_optimizers(model: Any, settings: Settings) -> list[torch.optim.Optimizer | Muon]:
    """Muon for the layers' matrices and AdamW for the rest, or AdamW alone."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    rate = settings.learning_rate
    if not settings.muon:
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
    from .muon import Muon

    return [
        Muon(matrices, lr=rate, decay=0.05, bf16=settings.bf16),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate_at(progress: float, warmup: float) -> float:
    """The share of the peak learning rate: a linear rise, then a cosine down to a fiftieth."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    done = min((progress - warmup) / (1 - warmup), 1.0)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model: Any, batch: Sequence[Row], bf16: bool) -> torch.Tensor:
    """Mean cross-entropy over the targets of a batch."""
    import torch

    ids, wanted, targets = collate(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted])
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def _endless(rows: Sequence[Row], settings: Settings, tokenizer: Tokenizer) -> Iterator[list[Row]]:
    """Batches for ever: drills alone at first, then conversations with drills among them."""
    rng = random.Random(f"{settings.seed}/drills")
    drill = itertools.chain.from_iterable(
        drills.drill_batches(rng, tokenizer, settings.batch_tokens) for _ in itertools.count()
    )
    seen = 0
    while seen < settings.drill_tokens:
        batch = next(drill)
        seen += sum(len(ids) for ids, _ in batch)
        yield batch
    for epoch in itertools.count():
        for batch in make_batches(rows, settings.batch_tokens, random.Random(f"{settings.seed}/{epoch}")):
            if rng.random() < settings.drills:
                yield next(drill)
            yield batch


class ThreadPicker:
    """Tries fewer threads now and then and keeps the faster number.

    On a busy machine a thread that waits for its turn holds up all the others: with two cores and a busy neighbour,
    one thread was seen to train 1.7 times faster than two.
    """

    def __init__(self, every: int = 25) -> None:
        import torch

        self.choices = sorted({1, torch.get_num_threads()})
        self.speeds: dict[int, float] = {}
        self.every, self.index = every, 0

    def begin(self, step: int) -> None:
        """Set the number of threads for this step."""
        import torch

        if step % self.every < len(self.choices):
            self.index = step % self.every
        elif self.speeds:
            self.index = max(range(len(self.choices)), key=lambda index: self.speeds.get(self.choices[index], 0.0))
        torch.set_num_threads(self.choices[self.index])

    def end(self, speed: float) -> None:
        """Remember how many tokens a second this step made."""
        self.speeds[self.choices[self.index]] = speed


def train(
    model: Any,
    rows: Sequence[Row],
    settings: Settings,
    tokenizer: Tokenizer,
    probes: Sequence[tuple[Row, bytes]] = (),
    keep: Callable[[], None] = lambda: None,
) -> float:
    """Run the training loop; returns the mean loss of the last fifty steps.

    Once in a while it says how many fact tokens of the held-out ``probes`` the model copies: the number to steer by.
    Every ``KEEP_MINUTES`` it calls ``keep``.
    """
    import torch

    optimizers = make_optimizers(model, settings)
    model.train()
    start, seen, recent = time.monotonic(), 0, list[float]()
    spent, kept = 0.0, start
    picker = ThreadPicker()
    for step, batch in enumerate(_endless(rows, settings, tokenizer)):
        progress = max(step / settings.steps, seen / settings.tokens, spent / (settings.minutes * 60))
        if progress >= 1:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate_at(progress, settings.warmup)
        picker.begin(step)
        began = time.monotonic()
        loss = loss_of(model, batch, settings.bf16)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        count = sum(len(ids) for ids, _ in batch)
        seen += count
        took = time.monotonic() - began
        picker.end(count / took)
        spent += min(took, LONGEST_STEP)
        recent = [*recent[-49:], float(loss.detach())]
        if time.monotonic() - kept > KEEP_MINUTES * 60:
            keep()
            kept = time.monotonic()
        if step % 50 == 0:
            speed = seen / spent
            copy = ""
            if probes and step % 100 == 0:
                copy = "  facts copied {:.1%}, whole answers {:.1%}".format(*drills.copied(model, probes))
            print(
                f"step {step}  loss {sum(recent) / len(recent):.4f}  {seen:,} tokens  {speed:,.0f} tokens/s  "
                f"{progress:.0%}{copy}",
                file=sys.stderr,
                flush=True,
            )
    return sum(recent) / max(len(recent), 1)


def save(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face folder beside ``out``, then rename it into place."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.config.use_cache = True
    model.save_pretrained(partial)
    model.config.use_cache = False
    tokens.save_tokenizer(tokenizer, partial)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def load(folder: Path) -> tuple[Tokenizer, Any]:
    """The tokenizer and the model that `save` wrote."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    model.config.use_cache = False
    return Tokenizer.from_file(str(folder / "tokenizer.json")), model


def answer(model: Any, tokenizer: Tokenizer, query: str, limit: int = 200) -> str:
    """The model's greedy answer to one message."""
    import torch

    prompt = tokens.encode_prompt(tokenizer, [{"role": "user", "content": query}])
    model.eval()
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, use_cache=True
        )
    kept = [token for token in output[0, len(prompt) :].tolist() if token != tokens.IM_END]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def _probes(tokenizer: Tokenizer, heldout: Path, most: int = 60) -> list[tuple[Row, bytes]]:
    """Held-out answers that name facts, to be repeated."""
    if not heldout.exists():
        return []
    with heldout.open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    texts = [(row["query"], row["strong"]) for row in found if "specificity" in row["objectives"]]
    return [drills.fact_row(tokenizer, query, text) for query, text in texts[:most]]


def train_base(chats: Path, out: Path, settings: Settings, start: Path | None = None) -> float:
    """Tokenizer, model, training, folder; returns the last loss. Goes on from the folder `start` if there is one."""
    import torch

    if settings.precision == "auto":
        settings = replace(settings, precision=faster_on_cpu())
    torch.manual_seed(settings.seed)
    conversations = read_chats(chats)
    if start is None:
        tokenizer = tokens.train_tokenizer(_tokenizer_texts(conversations, chats.with_name("pairs.jsonl")))
        model = new_model(tokenizer.get_vocab_size(), settings.layers)
        if settings.circuit:
            circuits.write_copying(model)
    else:
        tokenizer, model = load(start)
    if settings.bf16:
        attend_in_float32()
    rows = tokens.encode_chats(tokenizer, conversations)
    total = sum(len(ids) for ids, _ in rows)
    size = f"{model.num_parameters():,} parameters, {len(rows):,} rows, {total:,} tokens"
    print(f"{size}, computed in {settings.precision}", file=sys.stderr, flush=True)
    probes = _probes(tokenizer, chats.with_name("heldout.jsonl"))
    unfinished = out.with_name(f"{out.name}-unfinished")
    loss = train(model, rows, settings, tokenizer, probes, lambda: save(model, tokenizer, unfinished))
    shutil.rmtree(unfinished, ignore_errors=True)
    save(model, tokenizer, out)
    print(f"wrote {out} (loss {loss:.4f})", file=sys.stderr)
    return loss


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m mal_train.demo.base", description="Train the demo base model.")
    parser.add_argument("--chats", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--init", type=Path, help="go on from this folder instead of from nothing")
    parser.add_argument("--minutes", type=float, default=math.inf, help="wall-clock limit of the training loop")
    parser.add_argument("--tokens", type=float, default=math.inf, help="limit in tokens: the same on any machine")
    parser.add_argument("--steps", type=float, default=math.inf, help="limit in steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=Settings.layers)
    parser.add_argument("--batch-tokens", type=int, default=Settings.batch_tokens)
    parser.add_argument("--lr", type=float, default=Settings.learning_rate)
    parser.add_argument(
        "--drill-tokens", type=int, default=Settings.drill_tokens, help="random tokens repeated at first"
    )
    parser.add_argument("--drills", type=float, default=Settings.drills, help="share of such drills later")
    parser.add_argument("--no-circuit", action="store_true", help="begin without the copying circuit of circuits.py")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--adamw", action="store_true", help="AdamW for all weights instead of Muon for matrices")
    args = parser.parse_args(argv)
    settings = Settings(
        minutes=args.minutes,
        steps=args.steps,
        tokens=args.tokens,
        seed=args.seed,
        layers=args.layers,
        batch_tokens=args.batch_tokens,
        learning_rate=args.lr,
        drill_tokens=args.drill_tokens,
        drills=args.drills,
        circuit=not args.no_circuit,
        precision=args.precision,
        muon=not args.adamw,
    )
    train_base(args.chats, args.out, settings, args.init)
    return 0


if __name__ == "__main__":
    sys.exit(main())

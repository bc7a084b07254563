"""Train on real preference data, and tell what became of every row, how fast it went and how the loss fell.

    python bench/real_training.py DATA [--only pairs|answers] [--base FOLDER | --shape 1.1b] [--minutes 2]
                                   [--kind merged|activated] [--recipe RECIPE] [--set KEY=VALUE] [--out FOLDER]

DATA is a folder with `preference/hh-rlhf-harmless-base-test.jsonl.gz` (pairs of dialogues) and
`policy_outputs/*/*.csv` (query, goldens, generated_text). Two aligner sets are built by `mal data build` with the
deterministic scorers: the HH-RLHF pairs, and the policies' answers against the goldens. On each the three steps train
for some hundred optimizer steps. Without --base a Llama of random weights is made, 4.6 million of them or, with
--shape 1.1b, as many as TinyLlama has, with a byte-level BPE of 4,096 tokens learnt from the same texts: its loss shows
that training works, not what an aligner can do. The last line on stdout is one JSON document.

The paper's recipe on a GPU, as LoRA, QLoRA and activated LoRA. (The paper trains all weights: 120.48 A100-hours for
two epochs of its 614,178 edits, appendix G, about 10,000 an hour.)

    for more in "" "--set lora.quantize=nf4" "--kind activated"; do
        python bench/real_training.py DATA --only answers --shape 1.1b --recipe tinyllama-1.1b --minutes 5 $more
    done
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shapes import SHAPES, Shape

SCORERS = "length,readability,repetition,specificity,politeness"
SMALL = Shape(layers=6, width=256, heads=8, kv_heads=4, ffn=512, vocab=4096)
#: For the small random base: its head is frozen noise, and only a large adapter at a high rate moves it.
SETTINGS = (
    "data.max_length=2048",
    "data.validation=0.05",
    "data.validation_edits=64",
    "data.most_objectives=4",
    "training.batch_tokens=2048",
    "training.evaluations=2",
    "lora.rank=64",
    "lora.alpha=128",
    "stages.warmup.lr=2e-3",
    "stages.equal.lr=2e-3",
    "stages.contrastive.lr=2e-3",
    "stages.equal.share=0.3",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One aligner set: its name, its files, and what `mal data build` is told of them."""

    name: str
    files: list[Path]
    flags: list[str]


def sources(data: Path) -> list[Source]:
    pairs = sorted((data / "preference").glob("hh-rlhf*.jsonl.gz"))
    outputs = sorted((data / "policy_outputs").glob("*/*.csv"))
    if not pairs or not outputs:
        raise SystemExit(f"{data}: expected preference/hh-rlhf*.jsonl.gz and policy_outputs/*/*.csv")
    return [
        # What a person preferred is the more harmless answer; the scorers add what can be counted.
        Source("pairs", pairs, ["--objectives", "harmlessness", "--score", SCORERS]),
        Source(
            "answers",
            outputs,
            ["--answer-column", "generated_text", "--answer-column", "goldens", "--score", SCORERS],
        ),
    ]


def device() -> str:
    """The GPU's name, or the processor's kind."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def mal(*arguments: object) -> dict[str, Any]:
    """Run a command of ours; its JSON. What it says on stderr is shown."""
    command = [sys.executable, "-m", "metaaligner_lite", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def texts(rows: Path) -> Iterator[str]:
    with rows.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["query"]
            yield from (answer["text"] for answer in row["answers"])


def random_base(rows: Path, folder: Path, shape: Shape) -> Path:
    """A Llama with random weights, and a tokenizer learnt from the rows; the small one's embeddings are its head."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, specials = pre_tokenizers.ByteLevel.alphabet(), ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=max(len(fast), shape.vocab),
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.n_ctx,
        tie_word_embeddings=shape is SMALL,
        initializer_range=0.1 if shape is SMALL else 0.02,  # at 0.02 a frozen head so small lets no loss be learnt away
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=("pairs", "answers"), help="one of the two sets")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--shape", choices=SHAPES, help="of the random base, as in shapes.py; else a small one")
    parser.add_argument("--recipe", help="as of `mal train-lora`, instead of this script's settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, per set")
    parser.add_argument("--kind", default="merged", choices=("merged", "activated"))
    parser.add_argument("--out", type=Path, help="keep what is made here; else it goes")
    options = parser.parse_args()
    machine = f"{device()}, {', '.join(f'{n} {version(n)}' for n in ('torch', 'transformers', 'peft'))}"
    print(f"{machine}\n")
    print(
        "| set | records read | used | edits | shortened | refused | step | optimizer steps | tokens/s | edits/hour ",
        end="",
    )
    print("| peak GiB | loss, first to last tenth | held-out loss | held-out token accuracy |")
    print("|---|" + "---:|" * 5 + "---|" + "---:|" * 7)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        for source in sources(options.data):
            if options.only not in (None, source.name):
                continue
            rows = out / f"{source.name}.jsonl"
            built = mal("data", "build", *source.files, *source.flags, "-o", rows, "--force")
            base = options.base or random_base(rows, out / f"{source.name}-base", SHAPES.get(options.shape, SMALL))
            run = trained(base, rows, out / f"{source.name}-{options.kind}", options)
            results.append({"set": source.name, "built": built, **run})
            show(results[-1])
    print(json.dumps({"machine": machine, "results": results}))


def trained(base: Path, rows: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    flags = ["--base", base, "--data", rows, "--out", out, "--kind", options.kind, "--minutes", options.minutes]
    recipe = ["--recipe", options.recipe] if options.recipe else [f"--set={setting}" for setting in SETTINGS]
    told = mal("train-lora", *flags, "--force", *recipe, *(f"--set={setting}" for setting in options.set))
    metrics = told["metrics"]
    stages = [name for name in ("warmup", "equal", "contrastive") if f"{name}/steps" in metrics]
    return {"accounts": told["accounts"], "stages": stages, "metrics": metrics}


def show(result: dict[str, Any]) -> None:
    built, metrics, (_, edits, *_) = result["built"], result["metrics"], result["accounts"]
    refused = sum(built["refused"].values()) + sum(edits["refused"].values())
    for i, name in enumerate(result["stages"]):
        head = [
            result["set"],
            f"{built['read']:,}",
            f"{built['used']:,}",
            f"{edits['used']:,}",
            f"{edits['shortened']:,}",
        ]
        head = [*head, f"{refused:,}"] if not i else [""] * 6
        peak = "" if i else f"{metrics['peak_memory_gib']:.1f}"  # of the whole run
        first, last = metrics[f"{name}/first_loss"], metrics[f"{name}/loss"]
        cells = [
            name,
            f"{metrics[f'{name}/steps']:,.0f}",
            f"{metrics[f'{name}/tokens/s']:,.0f}",
            f"{3600 * metrics[f'{name}/edits/s']:,.0f}",
            peak,
            f"{first:.2f} to {last:.2f}",
        ]
        held_out = f"{name}/held_out_loss" in metrics
        cells += (
            [f"{metrics[f'{name}/held_out_loss']:.2f}", f"{metrics[f'{name}/held_out_accuracy']:.1%}"]
            if held_out
            else ["", ""]
        )
        print(f"| {' | '.join([*head, *cells])} |", flush=True)
    for account in (built, *result["accounts"]):
        for reason, count in account["refused"].items():
            print(f"{count:,} refused: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()

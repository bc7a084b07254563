"""`mal train-lora`: from rows with ratings to an aligner, by LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingExtra, UsageError, require_extra

_RECIPE = "Recipe"
_STAGES = ("warmup", "equal", "contrastive")


def train_lora(
    base: Annotated[
        Path, typer.Option(help="Model to start from: a Hugging Face folder, or the GGUF file that will run.")
    ],
    data: Annotated[Path, typer.Option(help="Rows with rated answers, JSONL.")],
    out: Annotated[Path, typer.Option(help="Folder to leave the aligner in.")],
    start: Annotated[
        Path | None,
        typer.Option(help="An adapter folder of an earlier training to go on from, with other data or for longer."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the settings, or one of qlora-7b-8gb, smoke, smollm2-1.7b, "
            "smollm2-135m, smollm2-135m-gpu, tinyllama-1.1b; flags override it."
        ),
    ] = None,
    objectives_file: Annotated[
        Path | None,
        typer.Option("--objectives-file", envvar="MAL_OBJECTIVES", help="A TOML file with objectives of your own."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Prompt layout, such as conversation.", rich_help_panel=_RECIPE)
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="merged, or activated (what a GGUF base gets).", rich_help_panel=_RECIPE)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="LoRA rank; alpha becomes twice it.", rich_help_panel=_RECIPE)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of every stage.", rich_help_panel=_RECIPE)] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of every stage.", rich_help_panel=_RECIPE)] = None,
    steps: Annotated[int | None, typer.Option(help="Most steps of every stage.", rich_help_panel=_RECIPE)] = None,
    minutes: Annotated[float | None, typer.Option(help="Train no longer than this.", rich_help_panel=_RECIPE)] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per batch.", rich_help_panel=_RECIPE)] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per edit.", rich_help_panel=_RECIPE)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.", rich_help_panel=_RECIPE)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe key, such as stages.warmup.share=0.", rich_help_panel=_RECIPE),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable row or edit.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the same run where it was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an aligner on rated answers with LoRA (the paper's three steps), and merge it into its base.

    On several GPUs: torchrun --nproc-per-node gpu --no-python mal train-lora ..., everything else the same.
    """
    require_extra("train", "torch", "transformers", "peft", "accelerate")
    try:
        from mal_train.distributed import is_main
        from mal_train.progress import Console
        from mal_train.recipe import load
        from mal_train.run import train
    except ImportError as error:
        raise MissingExtra(f"{error}; reinstall with: pip install 'metaaligner-lite[train]'") from error
    from ..objectives import load_catalogue

    overrides: dict[str, Any] = {
        "layout": layout,
        "kind": kind,
        "seed": seed,
        "lora.rank": rank,
        "lora.alpha": None if rank is None else 2.0 * rank,
        "training.minutes": minutes,
        "training.batch_tokens": batch_tokens,
        "data.max_length": max_length,
    }
    for stage in _STAGES:
        overrides |= {f"stages.{stage}.lr": lr, f"stages.{stage}.epochs": epochs, f"stages.{stage}.steps": steps}
    overrides = {key: value for key, value in overrides.items() if value is not None} | _assignments(set_ or [])
    result = train(
        base,
        data,
        out,
        load(recipe, overrides),
        catalogue=load_catalogue(objectives_file),
        progress=Console(),
        strict=strict,
        force=force,
        resume=resume,
        start=start,
    )
    if not is_main():
        return  # one of several processes: the first one has the word
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(result.out),
                    "adapter": str(result.adapter),
                    "merged": None if result.merged is None else str(result.merged),
                    "metrics": dict(result.metrics),
                    "accounts": [
                        {
                            "noun": a.noun,
                            "read": a.read,
                            "used": a.used,
                            "shortened": a.shortened,
                            "refused": dict(a.refused),
                        }
                        for a in result.accounts
                    ],
                    "next": result.next_command,
                }
            )
        )
    else:
        print(f"the aligner is in {result.out}; next:\n{result.next_command}")


def _assignments(items: list[str]) -> dict[str, Any]:
    """Recipe keys given as KEY=VALUE, the value spelled as in TOML; a bare word is a text."""
    import tomllib

    found: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {item!r}: expected KEY=VALUE, such as stages.warmup.share=0")
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text.strip()
    return found

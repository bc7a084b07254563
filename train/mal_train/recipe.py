"""The recipe: one TOML file per run, flags override it, and what took effect is saved with the result.

    layout = "conversation"        [lora] rank = 64        [stages.contrastive] share = 1.0  epochs = 2  lr = 2e-4

The fields of the records below are the keys, and their defaults the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaaligner_lite.errors import FileProblem, UsageError
from metaaligner_lite.files import read_text, write_whole
from metaaligner_lite.prompts import BRIEF, CONVERSATION, LAYOUTS

STAGES = ("warmup", "equal", "contrastive")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "layout": ("auto", *LAYOUTS),
    "kind": ("auto", "merged", "activated"),
    "data.overlong": ("shorten", "refuse"),
    "data.split_by": ("query", "row"),
    "training.precision": ("auto", "float32", "bfloat16", "float16"),
    "training.schedule": ("cosine", "linear", "constant"),
    "training.optimizer": ("adamw_torch", "adamw_torch_fused", "paged_adamw_8bit"),
    "lora.quantize": ("", "nf4"),
    "merge.dtype": ("auto", "float32", "bfloat16", "float16"),
}


@dataclass(frozen=True, slots=True)
class Data:
    """How rows become edits, and how long an edit may be."""

    max_length: int = 2048  # tokens of prompt and edit together
    overlong: str = "shorten"  # "shorten" the front of the query until it fits, or "refuse"
    most_objectives: int = 0  # draw up to so many of an edit's objectives; 0: name them all, as the paper does
    redraw: bool = False  # draw orders (and parts) of the objectives anew in each epoch
    pairs_per_row: int = 0  # 0: all pairs of answers
    named: float = 0.85  # share of the objectives that the layout conversation/brief names without their sentence
    validation: float = 0.0  # share of the queries held out
    split_by: str = "query"  # "row" lets a query fall on both sides, as the reference code does
    validation_edits: int = 512  # most held-out edits a stage is evaluated on


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter's shape."""

    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    rslora: bool = False  # scale by alpha / sqrt(rank): steadier at high ranks
    dora: bool = False  # learn direction and size apart: better at low ranks, slower
    quantize: str = ""  # "nf4" holds the base in 4 bits (QLoRA; CUDA and bitsandbytes)
    targets: str = "all-linear"  # or module names separated by commas, such as "q_proj,k_proj,v_proj"


@dataclass(frozen=True, slots=True)
class Training:
    """How the optimizer runs; the rates and lengths are each stage's own."""

    batch_tokens: int = 8192  # most tokens, padding included, in one forward pass of one device
    accumulate: int = 1  # forward passes per optimizer step
    minutes: float = 0.0  # stop after so long, the rate decayed by then; 0: run the whole plan
    precision: str = "auto"  # bfloat16 where it is supported and faster, else float32
    optimizer: str = "adamw_torch"
    schedule: str = "cosine"
    warmup: float = 0.05  # share of a stage's steps over which its rate rises
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    evaluations: int = 10  # per stage, if queries are held out; the adapter of the best one is kept
    patience: int = 0  # stop a stage after so many evaluations without a better one; 0: never
    checkpoint_minutes: float = 10.0  # between checkpoints to resume from; 0: none


@dataclass(frozen=True, slots=True)
class Merge:
    """How the adapter is folded into the base."""

    dtype: str = "auto"  # of the merged weights; auto: the base's own


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the paper's three training steps; share 0 skips it."""

    share: float = 1.0  # of its edit set
    epochs: float = 1.0
    lr: float = 2e-4
    steps: int = 0  # most optimizer steps; 0: no limit


@dataclass(frozen=True, slots=True)
class Stages:
    """The paper's three steps, in their order (paper, section 3.2)."""

    warmup: Stage = field(default_factory=lambda: Stage(share=0.1))
    equal: Stage = field(default_factory=Stage)
    contrastive: Stage = field(default_factory=Stage)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run, but for the files it reads."""

    layout: str = "auto"  # of the prompts; auto: conversation/brief for an activated adapter, else conversation
    kind: str = "auto"  # activated over the base that answers, or merged; auto: activated where the base is a GGUF file
    seed: int = 0
    data: Data = field(default_factory=Data)
    lora: Lora = field(default_factory=Lora)
    training: Training = field(default_factory=Training)
    merge: Merge = field(default_factory=Merge)
    stages: Stages = field(default_factory=Stages)

    def to_dict(self) -> dict[str, Any]:
        """Nested tables, as in the TOML file."""
        return dataclasses.asdict(self)


def settled(recipe: Recipe, gguf: bool) -> Recipe:
    """The recipe with kind and layout decided: over a GGUF file, which is what runs, an adapter is activated."""
    auto = "activated" if gguf and not recipe.lora.dora else "merged"
    kind = auto if recipe.kind == "auto" else recipe.kind
    layout = BRIEF if kind == "activated" else CONVERSATION
    return dataclasses.replace(recipe, kind=kind, layout=layout if recipe.layout == "auto" else recipe.layout)


def shipped() -> dict[str, Path]:
    """The recipes that come with the program, by name: beside the package when installed, else in train/recipes."""
    here = Path(__file__).parent
    folder = next((path for path in (here / "recipes", here.parent / "recipes") if path.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a TOML file (None: the defaults) with `overrides` such as {"lora.rank": 16} put on top.

    A bare name such as "smoke" is a recipe that comes with the program.

    Raises FileProblem if the file cannot be read, UsageError for an unknown key (naming the nearest known one),
    a value of the wrong type or one out of range.
    """
    raw: dict[str, Any] = {}
    source = "the command line"
    if path is not None:
        known = shipped()
        if not path.exists() and str(path) in known:
            path = known[str(path)]
        source = str(path)
        try:
            raw = tomllib.loads(read_text(path, "the recipe"))
        except FileProblem as error:
            raise FileProblem(f"{error}; a name without .toml is one of: {', '.join(known)}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from error
    recipe: Recipe = _build(Recipe(), raw, "", source)
    _check_ranges(recipe, source)
    for name, value in (overrides or {}).items():
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        recipe = _build(recipe, nested, "", "the command line")
    _check_ranges(recipe, "the command line")
    return recipe


def save(recipe: Recipe, path: Path) -> None:
    """Write the recipe as TOML, every key with the value that took effect."""
    write_whole(path, "\n".join(_toml(recipe.to_dict(), "")) + "\n")


def _build(default: Any, raw: Mapping[str, Any], prefix: str, source: str) -> Any:
    """`default` with the values of one table put in, checked one by one."""
    known = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
    changed: dict[str, Any] = {}
    for name, value in raw.items():
        key = prefix + name
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix + near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise UsageError(f"{source}: unknown key {key!r}; {hint}")
        changed[name] = _value(known[name], value, key, source)
    return dataclasses.replace(default, **changed)


def _value(default: Any, value: Any, key: str, source: str) -> Any:
    if dataclasses.is_dataclass(default):
        if not isinstance(value, dict):
            raise UsageError(f"{source}: {key!r} is {value!r}, expected a table [{key}]")
        return _build(default, value, key + ".", source)
    expected = type(default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise UsageError(f"{source}: {key!r} is {value!r}, expected {_TYPE_NAMES[expected]} such as {default!r}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UsageError(f"{source}: {key!r} is {value!r}, expected one of {', '.join(map(str, _CHOICES[key]))}")
    return value


_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _check_ranges(recipe: Recipe, source: str) -> None:
    limits: list[tuple[str, float, float, float]] = [
        ("data.max_length", recipe.data.max_length, 16, float("inf")),
        ("data.most_objectives", recipe.data.most_objectives, 0, float("inf")),
        ("data.named", recipe.data.named, 0, 1),
        ("data.pairs_per_row", recipe.data.pairs_per_row, 0, float("inf")),
        ("data.validation", recipe.data.validation, 0, 0.9),
        ("data.validation_edits", recipe.data.validation_edits, 1, float("inf")),
        ("lora.rank", recipe.lora.rank, 1, float("inf")),
        ("lora.alpha", recipe.lora.alpha, 1e-6, float("inf")),
        ("lora.dropout", recipe.lora.dropout, 0, 0.99),
        ("training.batch_tokens", recipe.training.batch_tokens, 16, float("inf")),
        ("training.accumulate", recipe.training.accumulate, 1, float("inf")),
        ("training.minutes", recipe.training.minutes, 0, float("inf")),
        ("training.evaluations", recipe.training.evaluations, 0, float("inf")),
        ("training.patience", recipe.training.patience, 0, float("inf")),
        ("training.checkpoint_minutes", recipe.training.checkpoint_minutes, 0, float("inf")),
        ("training.warmup", recipe.training.warmup, 0, 1),
        ("training.weight_decay", recipe.training.weight_decay, 0, float("inf")),
        ("training.max_grad_norm", recipe.training.max_grad_norm, 0, float("inf")),
    ]
    for name in STAGES:
        stage: Stage = getattr(recipe.stages, name)
        limits += [
            (f"stages.{name}.share", stage.share, 0, 1),
            (f"stages.{name}.epochs", stage.epochs, 0, float("inf")),
            (f"stages.{name}.lr", stage.lr, 0, 1),
            (f"stages.{name}.steps", stage.steps, 0, float("inf")),
        ]
    if recipe.kind == "activated" and recipe.lora.dora:
        raise UsageError(f"{source}: 'lora.dora' does not go with kind = 'activated'; leave one of the two out")
    for key, value, least, most in limits:
        if not least <= value <= most:
            bound = f"at least {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
            raise UsageError(f"{source}: {key!r} is {value!r}, expected {bound}")


def _toml(table: Mapping[str, Any], prefix: str) -> list[str]:
    lines = [f"{key} = {_toml_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            if any(not isinstance(inner, dict) for inner in value.values()):
                lines += ["", f"[{prefix}{key}]"]
            lines += _toml(value, f"{prefix}{key}.")
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # A JSON string is a TOML basic string.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

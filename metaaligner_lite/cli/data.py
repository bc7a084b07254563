"""`mal data`: make training rows of data sets, and look at them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import MissingExtra, UsageError, require_extra

app = typer.Typer(help="Make training rows of preference data, and look at them.", no_args_is_help=True)

_File = Annotated[
    Path | None,
    typer.Option("--objectives-file", envvar="MAL_OBJECTIVES", help="A TOML file with objectives of your own."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_HOW, _RATE = "How the data is read", "How answers are rated"


@app.command("build")
def build(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Data files (CSV, TSV, JSON, JSONL, Parquet; packed, too), or owner/name[:SPLIT] of the Hub."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The rows, JSONL; what mal train-lora --data reads.")],
    form: Annotated[
        str, typer.Option("--format", help="The data's form; auto tells it by its keys.", rich_help_panel=_HOW)
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="A column's name, such as query=instruction.", rich_help_panel=_HOW),
    ] = None,
    answer_column: Annotated[
        list[str] | None, typer.Option(help="A column that holds an answer; name two or more.", rich_help_panel=_HOW)
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many rows; 0: all.", rich_help_panel=_HOW)] = 0,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Drop rows that ask what this file asks, or nearly.", rich_help_panel=_HOW),
    ] = None,
    keep_thoughts: Annotated[
        bool, typer.Option("--keep-thoughts", help="Leave <think> and the like in answers.", rich_help_panel=_HOW)
    ] = False,
    objectives: Annotated[
        str | None,
        typer.Option(help="What a preferred or corrected answer is better at, if only that.", rich_help_panel=_RATE),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Count: length, readability, repetition, ...", rich_help_panel=_RATE)
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECTIVE=FOLDER", help="Ask a sequence classifier (#LOGIT).", rich_help_panel=_RATE),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(metavar="NAME", help="Repeat the paper's code: hh-rlhf or ultrafeedback.", rich_help_panel=_RATE),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of what --reference draws.")] = 0,
    objectives_file: _File = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable record.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out.")] = False,
    as_json: _Json = False,
) -> None:
    """Turn data sets into rows of a query and rated answers; every record is used or counted with its reason."""
    mal = _train()
    from ..objectives import load_catalogue, resolve
    from .console import print_json

    catalogue = load_catalogue(objectives_file)
    names = mal.rows.Names(catalogue)
    if reference not in ("", "hh-rlhf", "ultrafeedback"):
        raise UsageError(f"--reference {reference!r}: expected hh-rlhf or ultrafeedback")
    mapped = mal.formats.Mapped(
        names,
        dict(_pair(item) for item in column or []),
        tuple(answer_column or ()),
        tuple(resolve(objectives, catalogue)) if objectives else (),
    )
    built = mal.build.build(
        sources,
        out,
        mapped,
        form=form,
        scorers=mal.scorers.chosen_scorers([name.strip() for name in (score or "").split(",") if name.strip()]),
        rewards=_rewards(reward, names),
        reference=reference,
        limit=limit,
        seed=seed,
        strict=strict,
        force=force,
        catalogue=catalogue,
        held_out=held_out or (),
        keep_thoughts=keep_thoughts,
    )
    if as_json:
        account = built.account
        print_json(
            {
                "out": str(out),
                "rows": built.rows,
                "forms": built.forms,
                "read": account.read,
                "used": account.used,
                "refused": dict(account.refused),
                "parts_refused": dict(built.parts.refused),
                "edits_refused": dict(built.reference.refused) if built.reference else {},
                "objectives": dict(built.objectives),
                "columns_not_read": sorted(built.unread),
                "notes": dict(built.notes),
                "held_out": built.held_out.lines() if built.held_out else [],
            }
        )
        return
    for path, name in built.forms.items():
        print(f"{path}: {name}")
    print("\n".join(built.lines()))
    print("rows rated on: " + ", ".join(f"{name} {count:,}" for name, count in built.objectives.most_common()))
    print(
        f"{built.rows:,} rows in {out}; next:\nmal train-lora --base FOLDER --data {shlex.quote(str(out))} --out FOLDER"
    )


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="Rows, or any data file or Hub id that mal data build reads.")],
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many edits to show.")] = 2,
    layout: Annotated[str, typer.Option(help="The layout to show their prompts in.")] = "conversation",
    seed: Annotated[int, typer.Option(help="Seed of orders and of the edits shown.")] = 0,
    form: Annotated[str, typer.Option("--format", help="The data's form; auto tells it by its keys.")] = "auto",
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="A column's name, such as query=instruction.")
    ] = None,
    objectives: Annotated[str | None, typer.Option(help="What a preferred answer is better at, if only that.")] = None,
    objectives_file: _File = None,
    as_json: _Json = False,
) -> None:
    """Show what a file is taken for, what of it is used, and what is not; of rows also what would be learnt."""
    mal = _train()
    from ..objectives import load_catalogue, resolve
    from .console import print_json

    catalogue = load_catalogue(objectives_file)
    if form == "auto" and not column and mal.look.are_rows(file):
        _show_rows(mal, file, catalogue, count, layout, seed, as_json)
        return
    chosen = tuple(resolve(objectives, catalogue)) if objectives else ()
    mapped = mal.formats.Mapped(mal.rows.Names(catalogue), dict(_pair(item) for item in column or []), (), chosen)
    seen = mal.look.look(file, mapped, form)
    if as_json:
        print_json(seen.as_json())
    else:
        print("\n".join(seen.lines()))


def _show_rows(mal: Any, file: Path, catalogue: Any, count: int, layout: str, seed: int, as_json: bool) -> None:
    from ..prompts import PLAIN_DIALOGUE, edit_prompt
    from .console import print_json

    rows, account = mal.rows.read_rows(file, catalogue)
    summary = mal.build.summarize(rows)
    sets = mal.reformulate.reformulate_rows(map(mal.build.few_answers, rows), seed)
    edits = [*sets.contrastive[: count - count // 3], *sets.equal[: count // 3]]
    prompts = [
        "".join(
            piece.text
            for piece in edit_prompt(
                layout, e.query, e.answer, e.objectives, PLAIN_DIALOGUE, equal=e.equal, history=e.history
            )
        )
        for e in edits
    ]
    if as_json:
        shown = [{"prompt": prompt, "edit": e.target} for prompt, e in zip(prompts, edits, strict=True)]
        print_json({**summary, "refused": dict(account.refused), "edits": shown})
        return
    print("\n".join([f"{file}: rows, as mal data build writes them", *account.lines()]))
    if cut := sum(len(row.answers) > mal.build.ANSWERS for row in rows):
        print(f"of {cut:,} rows with more than {mal.build.ANSWERS} answers the first {mal.build.ANSWERS} are compared")
    signs = summary.pop("signs")
    print(", ".join(f"{value:,} {name}" for name, value in summary.items() if name != "rows"))
    for name, found in signs.items():
        print(f"  {name:20} " + "  ".join(f"{sign} {found.get(sign, 0):,}" for sign in "><="))
    for prompt, edit in zip(prompts, edits, strict=True):
        print(f"\n--- {'equal' if edit.equal else 'improve'} ---\n{prompt}\n--- edit ---\n{edit.target}")


def _train() -> Any:
    """The modules of the other half, imported here so that `mal --help` needs none of them."""
    try:
        import mal_train
        import mal_train.build
        import mal_train.look
        import mal_train.reformulate
        import mal_train.rows
        import mal_train.scorers
    except ImportError as error:
        raise MissingExtra(f"{error}; reinstall with: pip install 'metaaligner-lite[train]'") from error
    return mal_train


def _rewards(items: list[str] | None, names: Any) -> Any:
    if not items:
        return None
    require_extra("train", "torch", "transformers")
    from mal_train.rewards import Rewards, parse_reward

    from ..paths import cache_dir

    return Rewards([parse_reward(item) for item in items], names, cache_dir() / "rewards.sqlite")


def _pair(item: str) -> tuple[str, str]:
    ours, equals, theirs = item.partition("=")
    if not equals or not ours.strip() or not theirs.strip():
        raise UsageError(f"--column {item!r}: expected OURS=THEIRS, such as query=instruction")
    return ours.strip(), theirs.strip()

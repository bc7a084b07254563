"""`mal objectives`: the objectives that can be named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="List the objectives that can be named, or show one.", no_args_is_help=True)

_File = Annotated[
    Path | None,
    typer.Option("--objectives-file", envvar="MAL_OBJECTIVES", help="A TOML file with objectives of your own."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_objectives(objectives_file: _File = None, as_json: _Json = False) -> None:
    """List every objective: its name and the sentence that a prompt uses."""
    from ..objectives import load_catalogue
    from .console import print_json

    catalogue = load_catalogue(objectives_file)
    if as_json:
        print_json([_record(objective) for objective in catalogue.values()])
        return
    width = max(map(len, catalogue))
    for objective in catalogue.values():
        print(f"{objective.name:{width}}  {objective.description}")


@app.command("show")
def show_objective(
    name: Annotated[str, typer.Argument(help="A name or an alias, such as humour.")],
    objectives_file: _File = None,
    as_json: _Json = False,
) -> None:
    """Show one objective and how each prompt layout words it."""
    from ..objectives import load_catalogue, resolve
    from ..prompts import LAYOUTS
    from .console import print_json

    (objective,) = resolve([name], load_catalogue(objectives_file))
    if as_json:
        print_json(_record(objective))
        return
    print(f"{objective.name}\n  {objective.description}")
    if objective.aliases:
        print(f"  also: {', '.join(objective.aliases)}")
    for layout in LAYOUTS:
        print(f"  {layout:20} {objective.worded(layout)}")


def _record(objective: Any) -> dict[str, Any]:
    return {
        "name": objective.name,
        "description": objective.description,
        "aliases": list(objective.aliases),
        "wording": dict(objective.wording),
    }

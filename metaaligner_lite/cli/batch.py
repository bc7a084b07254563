"""`mal batch`: align the rows of a file."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..batch import Progress, Tally

_COLUMNS, _RUN = "Which columns", "How the run goes"
_EVERY = 10.0  # seconds between two lines where there is no terminal


class Engine(StrEnum):
    """Where the rows of a batch are done."""

    here = "here"
    ray = "ray"


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="CSV, TSV, JSON, JSONL, Parquet or OpenAI batch lines.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="CSV, TSV, JSONL or Parquet; written whole at the end.")],
    objectives: opt.Objectives = None,
    policy: opt.Policy = None,
    aligner: opt.Aligner = None,
    adapter: opt.Adapter = None,
    query_column: Annotated[
        str, typer.Option(help="Holds the query (default: query, prompt, ...).", rich_help_panel=_COLUMNS)
    ] = "",
    answer_column: Annotated[
        str,
        typer.Option(
            help="Holds an answer to edit (default: answer, generated_text, ...); null: the policy answers.",
            rich_help_panel=_COLUMNS,
        ),
    ] = "",
    history_column: Annotated[
        str, typer.Option(help="Holds the turns before the query, as JSON.", rich_help_panel=_COLUMNS)
    ] = "",
    objectives_column: Annotated[
        str, typer.Option(help="Holds a row's own objectives.", rich_help_panel=_COLUMNS)
    ] = "",
    id_column: Annotated[
        str, typer.Option(help="Holds what no two rows share (default: none).", rich_help_panel=_COLUMNS)
    ] = "",
    in_flight: Annotated[int, typer.Option(min=1, help="GGUF rows written side by side.", rich_help_panel=_RUN)] = 1,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Rows that servers are asked at once.", rich_help_panel=_RUN)
    ] = 4,
    engine: Annotated[
        Engine, typer.Option(help="Where rows are done: here, or on a Ray cluster (extra ray).", rich_help_panel=_RUN)
    ] = Engine.here,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of that cluster, each with a pair of models and --threads cores (default: 2, 1).",
            rich_help_panel=_RUN,
        ),
    ] = None,
    worker_gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs that Ray gives each, a part of one too (default: none).", rich_help_panel=_RUN),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry/--no-retry", help="Do rows again that failed before.", rich_help_panel=_RUN)
    ] = True,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="Set aside what an earlier run left.", rich_help_panel=_RUN)
    ] = False,
    counts: Annotated[
        bool, typer.Option("--counts/--no-counts", help="Add each row's tokens and seconds.", rich_help_panel=_RUN)
    ] = True,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference",
            help="Write the columns of the paper's code: query, goldens, origin_responses, aligned_responses.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of the rows as JSON.")] = False,
    system: opt.System = "",
    rounds: opt.Rounds = 1,
    best_of: opt.BestOf = 1,
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = 0.0,
    edit_temperature: opt.EditTemperature = 0.0,
    seed: opt.Seed = 0,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    min_p: opt.MinP = None,
    repeat_penalty: opt.RepeatPenalty = None,
    dry: opt.Dry = 0.0,
    ctx_size: opt.CtxSize = 0,
    threads: opt.Threads = 0,
    gpu_layers: opt.GpuLayers = -1,
    unpack: opt.Unpack = None,
    kv: opt.Kv = "f16",
    draft: opt.Draft = True,
    policy_model: opt.PolicyModel = "",
    aligner_model: opt.AlignerModel = "",
    policy_key_env: opt.PolicyKeyEnv = "",
    aligner_key_env: opt.AlignerKeyEnv = "",
    timeout: opt.Timeout = 600.0,
    layout: opt.Layout = "",
    gate: opt.Gate = False,
    force: opt.Force = False,
    chat_template: opt.ChatTemplateFile = None,
    objectives_file: opt.ObjectivesFile = None,
) -> None:
    """Align every row of IN: edit its answer, or one that the policy writes first.

    Rows are kept in OUT.part as they are done: a run that was killed goes on when the same command is given again.

    Example: mal batch answers.csv aligned.csv -o "empathy,clarity"
    """
    from ..batch import Job, run, survey
    from ..chats import with_system
    from ..errors import UsageError
    from ..gate import Gate
    from ..generation import Sampling
    from ..llama.context import kv_type
    from ..objectives import load_catalogue, resolve
    from ..output import printable
    from ..pair import Choice, open_pair
    from ..rows import Columns, Reading
    from .align import read_template
    from .console import flagged, print_json, talk

    if objectives and len(objectives) > 1:
        raise UsageError("a batch has one set of objectives, or a column of them; give --objectives once")
    if best_of > 1 and in_flight > 1:
        raise UsageError("the edits of --best-of are what is written side by side; leave out --in-flight")
    if engine is not Engine.ray and (workers or worker_gpus):
        raise UsageError("`workers` and `worker_gpus` are those of a Ray cluster; give `engine` ray, too")
    kv_type(kv)
    catalogue = load_catalogue(objectives_file)
    wanted = tuple(resolve(objectives[0], catalogue)) if objectives else ()
    columns = Columns(query_column, answer_column, objectives_column, history_column, id_column)
    (message,) = with_system((), system) if system else (None,)
    reading = Reading(columns, wanted, catalogue, message.content if message else "")
    job = Job(
        source,
        out,
        reading,
        rounds,
        Gate() if gate else None,
        in_flight,
        retry,
        start_over,
        counts,
        reference,
        best_of,
        concurrency,
    )
    asked = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repeat_penalty": repeat_penalty}
    named: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    console = talk()

    def say(note: str) -> None:
        console.print(f"note: {printable(flagged(note))}", style="bold")

    found = survey(job)
    for note in found.notes:
        say(note)
    if not found.unanswered:
        opt.refuse_temperature(temperature, "every row has an answer")
    choice = Choice(
        policy,
        aligner,
        adapter,
        None if found.unanswered else "",  # where every row has an answer, no policy is opened
        layout=layout,
        template=read_template(chat_template),
        sampling=Sampling(temperature, seed=seed, dry=dry, **named),
        edit_temperature=edit_temperature,
        chosen=frozenset(named),
        max_tokens=max_tokens,
        draft=draft,
        engine=opt.engine(ctx_size, threads, gpu_layers, unpack, kv, force),
        policy_model=policy_model,
        aligner_model=aligner_model,
        policy_key_env=policy_key_env,
        aligner_key_env=aligner_key_env,
        timeout=timeout,
    )
    do = None
    if engine is Engine.ray:
        from ..ray_engine import RayRows

        choice = replace(choice, engine=choice.engine | {"threads": threads or 1})
        do = RayRows(choice, workers=workers or 2, cpus=threads or 1, gpus=worker_gpus or 0, say=say)
    with open_pair(choice, [wanted] if wanted else [], say=say) as pair:
        tally = _shown(found.rows, lambda progress: run(job, found, pair, progress, do))
    for kind, count in tally.errors.most_common():
        say(f"{count:,} failed: {kind} (first: {tally.first[kind]})")
    if as_json:
        print_json({"out": str(out), **tally.summary()})
    else:
        outcomes = ", ".join(f"{count:,} {name}" for name, count in tally.outcomes.most_common())
        kept = f"; {tally.kept:,} from an earlier run" if tally.kept else ""
        console.print(f"{tally.rows:,} rows in {out}: {outcomes}{kept}; {tally.seconds:,.1f} s", style="dim")
    if tally.failed:
        raise typer.Exit(1)


def _shown(rows: int, work: Callable[[Progress], Tally]) -> Tally:
    """Do some work with its progress on stderr: a bar on a terminal, else a line now and then."""
    from .console import talk

    console = talk()
    if not console.is_terminal:
        return work(_Lines(console.print))
    from rich import progress as rich

    with rich.Progress(
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[told]}"),
        rich.TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=rows, told="")

        def progress(tally: Tally) -> None:
            failed = f", {tally.failed:,} failed" if tally.failed else ""
            bar.update(task, completed=tally.done, told=f"{_rate(tally):.2f} rows/s{failed}")

        return work(progress)


class _Lines:
    """Tells of progress in a line, but not too often."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._said = write, time.monotonic()

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() - self._said >= _EVERY and (rate := _rate(tally)):
            self._said = time.monotonic()
            left = (tally.rows - tally.done) / rate
            self._write(f"{tally.done:,} of {tally.rows:,} rows, {rate:.2f} rows/s, about {left / 60:,.0f} min left")


def _rate(tally: Tally) -> float:
    return (tally.done - tally.kept) / tally.seconds if tally.seconds else 0.0

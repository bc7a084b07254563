"""`mal eval`: does it align?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from ..evaluation.judges import Judge
    from ..evaluation.variants import Wish
    from ..pair import Choice

_COLUMNS, _JUDGES, _TEXTS, _RUN = "Which columns", "Who judges", "What is compared", "How the run goes"
_EVERY = 10.0  # seconds between two lines where there is no terminal
_RULES, _SCORERS, _LIKELIHOOD = "rules", "scorers", "likelihood"
_NO_MODEL = (_RULES, _SCORERS, _LIKELIHOOD)


def evaluate(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RESULTS...", help="What `mal batch` wrote, or tables with an answer and its edit."),
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            "-j",
            help="A GGUF file, owner/repo[:QUANT], the URL of a server, 'rules', 'scorers' (those of `mal data`), or "
            "'likelihood' (the aligner's own). Several may be given (default: rules).",
            rich_help_panel=_JUDGES,
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="OBJECTIVE=FOLDER, a reward model, as in `mal data`: #INDEX another logit, @answer no query.",
            rich_help_panel=_JUDGES,
        ),
    ] = None,
    objectives: Annotated[
        str, typer.Option("--objectives", "-o", help="What the edits were asked for, where the rows do not say it.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="The report, a .json file (default: RESULTS.eval.json).", rich_help_panel=_RUN)
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The report as one HTML file, too: charts, tables, examples; it loads nothing.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    inspect: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A log for Inspect (inspect_ai), too, a .json file.", rich_help_panel=_RUN),
    ] = None,
    measure: Annotated[
        str, typer.Option(help="Objectives to judge, asked for or not (default: those asked for).")
    ] = "",
    judge_model: Annotated[
        str, typer.Option(help="Which of the judge's server's models.", rich_help_panel=_JUDGES)
    ] = "",
    judge_key_env: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The environment variable that holds the server's key.", rich_help_panel=_JUDGES
        ),
    ] = "",
    judge_prompt: Annotated[
        str,
        typer.Option(help="The prompt of the paper's appendix, or of its code: paper | code.", rich_help_panel=_JUDGES),
    ] = "paper",
    judge_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Let a judge write so many tokens, and read its last mark; 0: a GGUF's answer tokens are read.",
            rich_help_panel=_JUDGES,
        ),
    ] = 0,
    meta: Annotated[
        list[Path] | None,
        typer.Option(
            help="Score the judges against people's votes: files or folders of PandaLM, LLMBar, HHH.",
            rich_help_panel=_JUDGES,
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Do two reports' aligners differ?")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=FILE",
            help="Another aligner's edits of the same answers: a results file, or a GGUF that edits now.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Let models write the baselines: prompt only, equal mode, the gate.",
            rich_help_panel=_TEXTS,
        ),
    ] = True,
    prompt_only: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Who edits by prompt alone (default: the base).", rich_help_panel=_TEXTS),
    ] = "",
    minilm: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="all-MiniLM-L6-v2: tell what edits keep of the meaning ([train]).",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    aligner: Annotated[
        str | None,
        typer.Option(
            "--aligner",
            "-a",
            envvar="MAL_ALIGNER",
            help="Who wrote the edits, as `mal batch` was told it: for equal mode and the gate (default: what ships).",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter", envvar="MAL_ADAPTER", help="... and the adapter over it, or its base.", rich_help_panel=_TEXTS
        ),
    ] = None,
    layout: opt.Layout = "",
    limit: Annotated[
        int,
        typer.Option(
            min=0, help="At most so many rows of each policy, pairs of each set; 0: all.", rich_help_panel=_RUN
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which ones.", rich_help_panel=_RUN)] = 0,
    rerun_share: Annotated[
        float, typer.Option(min=0, max=1, help="Ask this share again, and tell the agreement.", rich_help_panel=_RUN)
    ] = 0.0,
    min_judged: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 1 if a smaller share could be judged.", rich_help_panel=_RUN)
    ] = 0.9,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="Set aside what was kept: ask all again.", rich_help_panel=_RUN)
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a report on other rows.", rich_help_panel=_RUN)
    ] = False,
    as_json: opt.Json = False,
    query_column: Annotated[str, typer.Option(help="Default: query, prompt, ...", rich_help_panel=_COLUMNS)] = "",
    answer_column: Annotated[
        str, typer.Option(help="The policy's answer (default: weak_answer, ...).", rich_help_panel=_COLUMNS)
    ] = "",
    edit_column: Annotated[
        str, typer.Option(help="Its edit (default: aligned_answer, edit, ...).", rich_help_panel=_COLUMNS)
    ] = "",
    golden_column: Annotated[
        str, typer.Option(help="The data set's answer (default: goldens, golden, ...).", rich_help_panel=_COLUMNS)
    ] = "",
    objectives_column: Annotated[
        str, typer.Option(help="A row's own objectives (default: objectives).", rich_help_panel=_COLUMNS)
    ] = "",
    history_column: Annotated[
        str, typer.Option(help="The turns before the query (default: history).", rich_help_panel=_COLUMNS)
    ] = "",
    policy_column: Annotated[
        str, typer.Option(help="Who answered (default: policy, else the file's name).", rich_help_panel=_COLUMNS)
    ] = "",
    id_column: Annotated[
        str, typer.Option(help="What no two rows share (default: id).", rich_help_panel=_COLUMNS)
    ] = "",
    ctx_size: opt.CtxSize = 0,
    threads: opt.Threads = 0,
    gpu_layers: opt.GpuLayers = -1,
    unpack: opt.Unpack = None,
    timeout: opt.Timeout = 600.0,
    objectives_file: opt.ObjectivesFile = None,
) -> None:
    """Judge edits against the answers before and the golden ones, with the baselines that could explain a gain away.

    What judges said is kept beside the report: the same command goes on where it was killed, and asks only what is new.

    Example: mal eval aligned.csv -o "empathy,clarity" --judge judge.gguf
    """
    from ..errors import UsageError
    from ..evaluation.compare import compare as compared
    from ..evaluation.inspect_log import check_log, write_log
    from ..evaluation.meta import read_votes
    from ..evaluation.page import check_page, write_page
    from ..evaluation.report import beside, plain
    from ..evaluation.run import Evaluation, check_out, row_records, save
    from ..evaluation.run import evaluate as run
    from ..evaluation.sources import Columns, Table, read_items
    from ..evaluation.terminal import comparison_tables, tables
    from ..evaluation.variants import Wish, make_variants
    from ..evaluation.verdicts import Kept
    from ..objectives import load_catalogue, resolve
    from ..output import printable
    from ..pair import Choice
    from .console import flagged, print_json, talk

    if compare:
        if sources or meta or html or inspect:
            raise UsageError("`compare` takes two reports and nothing else")
        found = compared(*compare)
        if as_json:
            print_json(plain(found))
        else:
            _print(comparison_tables(found))
        return
    sources = sources or []
    if not sources and not meta:
        raise UsageError("nothing to judge: name what `mal batch` wrote, or votes of people with `meta`")
    if meta and not sources and not reward and set(judges or [_RULES]) <= {_RULES, "likelihood"}:
        raise UsageError(
            "people's votes are on quality, of which rules and likelihood say nothing: name a model with `judge`, or a "
            "reward model with `reward`"
        )
    out = out or _default_out(sources)
    check_out(out, sources, force=force)
    if html:
        check_page(html, force=force)
    if inspect:
        check_log(inspect, force=force)
    written = [path.resolve() for path in (out, html, inspect) if path]
    if len(set(written)) < len(written) or set(written) & {path.resolve() for path in sources}:
        raise UsageError("a file is named twice: `out`, `html` and `inspect` each want one of their own")
    catalogue = load_catalogue(objectives_file)
    console = talk()

    def say(note: str) -> None:
        console.print(f"note: {printable(flagged(note))}", style="bold")

    columns = Columns(
        query_column,
        answer_column,
        edit_column,
        golden_column,
        objectives_column,
        history_column,
        policy_column,
        id_column,
    )
    table = Table(columns, tuple(resolve(objectives, catalogue)) if objectives else (), catalogue)
    rows = read_items(sources, table, limit=limit, seed=seed) if sources else None
    votes = read_votes(meta, limit=limit, seed=seed) if meta else []
    engine = {"ctx_size": ctx_size, "threads": threads, "gpu_layers": gpu_layers, "unpack": unpack}
    choice = Choice(aligner=aligner, adapter=adapter, answer="", layout=layout, engine=engine, timeout=timeout)
    wish = Wish(choice, _named(more), prompt_only, baselines)
    prompting = (judge_model, judge_key_env, judge_prompt, judge_tokens)
    judging = _Judges(judges or ([] if reward else [_RULES]), reward or [], *prompting, wish, catalogue, say)
    judging.check()
    with _Shown() as progress, Kept(beside(out, "kept"), start_over=start_over) as kept:
        work = Evaluation([], [], [], votes=votes, rerun_share=rerun_share, seed=seed)
        if rows:
            made = make_variants(rows, wish, table, kept, say, progress)
            measured = resolve(measure, catalogue) if measure else []
            measured = measured or list({o.name: o for item in made.items for o in item.requested}.values())
            work.items, work.sources, work.notes = made.items, rows.sources, rows.notes
            work.variants, work.left_out, work.failed = made.variants, made.left_out, made.failed
            work.measured = measured
            work.taxes = () if measure else _taxes(catalogue, measured)
            work.meaning = _meaning(minilm, out, made.items) if minilm else None
            work.suspects = judging.suspicions(list(dict.fromkeys(item.policy for item in made.items)))
        work.settings = {
            "limit": limit,
            "seed": seed,
            "min_judged": min_judged,
            "rerun_share": rerun_share,
            "judge_prompt": judge_prompt,
            "baselines": baselines,
        }
        try:
            report, verdicts = run(work, judging.makers(), kept, progress)
        finally:
            judging.close()
        report = save(out, report, verdicts, work.items)
    texts = list(row_records(work.items))
    if html:
        write_page(html, report, verdicts, texts)
    if inspect:
        write_log(inspect, report, verdicts, texts)
    if as_json:
        print_json(plain(report))
    else:
        _print(tables(report))
    console.print(f"report: {out} (texts and verdicts beside it)", style="dim")
    for path in filter(None, (html, inspect)):
        console.print(f"written, too: {path}", style="dim")
    if report.coverage.share < min_judged:
        say(
            f"only {100 * report.coverage.share:.1f} % of the pairs have a verdict, fewer than `min_judged` "
            f"{min_judged:g}; what failed is asked again when the same command is given again"
        )
        raise typer.Exit(1)


def _default_out(sources: list[Path]) -> Path:
    if not sources:
        return Path("judges.eval.json")
    name = sources[0].name.removesuffix(".gz")
    return sources[0].with_name(f"{Path(name).stem}.eval.json")


def _named(items: list[str] | None) -> dict[str, str]:
    from ..errors import UsageError

    found: dict[str, str] = {}
    for item in items or []:
        name, equals, file = item.partition("=")
        if not equals or not name.strip() or not file.strip():
            raise UsageError(f"`with` {item!r}: expected NAME=FILE, such as f16=aligner-f16.gguf")
        if name.strip() in found:
            raise UsageError(f"`with` {name.strip()} is given twice")
        found[name.strip()] = file.strip()
    return found


def _taxes(catalogue: Any, measured: list[Any]) -> list[Any]:
    """What the rules can tell beside what was asked for."""
    from ..evaluation.measures import MEASURES

    names = {objective.name for objective in measured}
    return [catalogue[name] for name in MEASURES if name in catalogue and name not in names and name != "length"]


def _meaning(folder: Path, out: Path, items: list[Any]) -> Any:
    """What tells of meaning, once all texts were read."""
    from ..evaluation.meaning import Meaning

    found = Meaning(folder, out.with_name(f"{out.name.removesuffix('.json')}.meaning.npz"))
    found.embed({text for item in items for text in item.texts.values()})
    return found


class _Judges:
    """The judges that a user named; one model is open at a time."""

    def __init__(
        self,
        named: list[str],
        rewards: list[str],
        model: str,
        key_env: str,
        prompt: str,
        tokens: int,
        wish: Wish,
        catalogue: Any,
        say: Callable[[str], None],
    ) -> None:
        from contextlib import ExitStack

        self._named, self._model, self._key_env = list(dict.fromkeys(named)), model, key_env
        self._prompt, self._tokens, self._wish, self._say = prompt, tokens, wish, say
        self._catalogue = catalogue
        self._rewards = _parsed(rewards)
        self._opened: ExitStack = ExitStack()

    def check(self) -> None:
        """Raise for what cannot be, before any work is done; fetch what is to be fetched."""
        from ..endpoint import is_url
        from ..errors import UsageError
        from ..evaluation.prompts import JUDGE_PROMPTS
        from ..gguf_file import read_header
        from ..models import find_gguf

        if self._prompt not in JUDGE_PROMPTS:
            raise UsageError(f"unknown prompt {self._prompt!r}; expected `judge_prompt` {' | '.join(JUDGE_PROMPTS)}")
        if (self._model or self._key_env) and not any(is_url(name) for name in self._named):
            raise UsageError("`judge_model` and `judge_key_env` belong to a server: name its URL with `judge`")
        for i, name in enumerate(self._named):
            if name not in _NO_MODEL and not is_url(name):
                path = find_gguf(name, "the judge", self._say)
                read_header(path)
                self._named[i] = str(path)

    def suspicions(self, policies: list[str]) -> dict[str, list[str]]:
        """Which judges are no strangers to what they judge; told at once, and in the report."""
        from ..endpoint import is_url
        from ..evaluation.variants import suspicions

        found = {}
        for name in self._named:
            if name in _NO_MODEL:
                continue
            who = self._model if is_url(name) else Path(name)
            if told := suspicions(who, self._wish, policies):
                found[who if isinstance(who, str) else who.name] = told
                for note in told:
                    self._say(note)
        return found

    def makers(self) -> Iterator[Callable[[], Judge]]:
        """What opens each judge, and closes the one before."""
        for name in self._named:
            yield lambda name=name: self._open(name)  # type: ignore[misc]
        for reward in self._rewards:
            yield lambda reward=reward: self._open_reward(reward)  # type: ignore[misc]

    def close(self) -> None:
        """Close the last one."""
        self._opened.close()

    def _open(self, name: str) -> Judge:
        from ..endpoint import Endpoint, Server, is_url
        from ..evaluation.judges import EndpointJudge, GgufJudge, LikelihoodJudge, RulesJudge, ScorersJudge
        from ..llama.engine import open_engine
        from ..pair import open_pair

        self._opened.close()
        choice: Choice = self._wish.aligner
        if name == _RULES:
            return RulesJudge()
        if name == _SCORERS:
            return ScorersJudge(_SCORERS, _scores())
        if name == _LIKELIHOOD:
            aligner = self._opened.enter_context(open_pair(choice, say=self._say)).aligner
            return LikelihoodJudge(_local(aligner))
        if is_url(name):
            server = Server(name, self._model, self._key_env, "judge", choice.timeout)
            endpoint = self._opened.enter_context(Endpoint(server, self._say))
            endpoint.check()
            return EndpointJudge(endpoint, self._prompt, tokens=self._tokens or 1024)
        engine = self._opened.enter_context(open_engine(name, say=self._say, **choice.engine))
        return GgufJudge(engine, self._prompt, tokens=self._tokens)

    def _open_reward(self, reward: Any) -> Judge:
        import hashlib

        from mal_train.rewards import Rewards, identity
        from mal_train.rows import Names

        from ..evaluation.judges import RewardJudge
        from ..paths import cache_dir

        self._opened.close()
        names = Names(self._catalogue)
        scorer = Rewards([], names, cache_dir() / "rewards.sqlite")
        name = f"{reward.model.name}#{reward.index}" if reward.index else reward.model.name
        objective = names[reward.objective].name
        known = f"{name} {hashlib.blake2b(identity(reward).encode(), digest_size=8).hexdigest()}"
        return RewardJudge(name, objective, known, lambda pairs: scorer.scores(reward, pairs))


def _scores() -> dict[str, Callable[[str, str], float]]:
    """What `mal data --score` counts, in its steps."""
    from mal_train.scorers import SCORERS, Scorer

    def stepped(scorer: Scorer) -> Callable[[str, str], float]:
        def score(query: str, text: str) -> float:
            found = scorer.score(query, text)
            return float(round(found / scorer.step)) if abs(found) < 1e9 else found

        return score

    return {name: stepped(scorer) for name, scorer in SCORERS.items()}


def _parsed(items: list[str]) -> list[Any]:
    if not items:
        return []
    from ..errors import require_extra

    require_extra("train", "torch", "transformers")
    from mal_train.rewards import parse_reward

    return [parse_reward(item) for item in items]


def _local(aligner: Any) -> Any:
    from ..aligners import GgufAligner
    from ..errors import UsageError

    if not isinstance(aligner, GgufAligner):
        raise UsageError("`judge` likelihood: a server tells no likelihoods; name the aligner's GGUF file")
    return aligner


def _print(parts: Any) -> None:
    """Results on stdout; in a file or a pipe a table is as wide as it needs to be."""
    from rich.console import Console

    from ..output import printable
    from .console import flagged

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=240)
    for part in parts:
        if isinstance(part, str):
            console.print(printable(flagged(part)), soft_wrap=True)
        else:
            console.print(part)


class _Shown:
    """Tells on stderr how far a judge, or a baseline, is: on a terminal in place, else in a line now and then."""

    def __init__(self) -> None:
        from .console import talk

        self._console = talk()
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._said = time.monotonic()

    def __enter__(self) -> _Shown:
        if self._console.is_terminal:
            from rich import progress as rich

            columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
            self._bar = rich.Progress(*columns, rich.TimeRemainingColumn(), console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, who: str, done: int, whole: int) -> None:
        if self._bar:
            if who not in self._tasks:
                self._tasks[who] = self._bar.add_task(who, total=whole)
            self._bar.update(self._tasks[who], completed=done, total=whole)
        elif time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self._console.print(f"{who}: {done:,} of {whole:,}")

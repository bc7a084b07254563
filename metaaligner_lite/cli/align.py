"""`mal align`: ask the policy, let the aligner edit its answer."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..align import Correction
    from ..aligners import GgufAligner
    from ..llama.engine import Engine
    from ..objectives import Objective
    from ..prompts import ChatTemplate


class Show(StrEnum):
    """What of a correction is printed."""

    final = "final"
    both = "both"
    diff = "diff"


def align(
    context: typer.Context,
    query: Annotated[
        str | None, typer.Argument(help="The message to answer; '-' or nothing reads it from standard input.")
    ] = None,
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objectives",
            "-o",
            help='What a better answer does: names, or "name: description" (see: mal objectives list). '
            "Given several times: a correction for each, from one answer.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", "-p", envvar="MAL_POLICY", help="The GGUF model that answers (default: embedded)."),
    ] = None,
    aligner: Annotated[
        Path | None,
        typer.Option("--aligner", "-a", envvar="MAL_ALIGNER", help="The GGUF model that edits (default: embedded)."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter", envvar="MAL_ADAPTER", help="An activated adapter over the policy instead of an aligner model."
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", help="Edit this text instead of asking a policy ('-': standard input).")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", help='The turns before QUERY, as JSON: [{"role": "user", "content": "..."}, ...].'),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="A system text for the policy, or @FILE that holds it.")] = "",
    show: Annotated[
        Show | None, typer.Option("--show", help="What to print (default: diff on a terminal, final in a pipe).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document: texts, counts, seconds.")] = False,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Edit the edited answer again, up to so many times in all.")
    ] = 1,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Longest text of each stage (default: fits the answer's length)."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy and repeatable.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Makes sampling repeatable.")] = 0,
    ctx_size: Annotated[
        int, typer.Option("--ctx-size", min=0, help="Most tokens of prompt and text together (default: the model's).")
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", "-t", min=0, envvar="MAL_THREADS", help="CPU threads (default: one per core).")
    ] = 0,
    gpu_layers: Annotated[
        int,
        typer.Option("--gpu-layers", min=-1, envvar="MAL_GPU_LAYERS", help="Layers on a GPU, if any; -1 is all."),
    ] = -1,
    kv: Annotated[
        str,
        typer.Option(
            "--kv",
            help="Type of the KV cache: f16, q8_0 (half the memory), q4_0, bf16, f32. A quantized one needs flash "
            "attention, which on a CPU makes writing slower.",
        ),
    ] = "f16",
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            envvar="MAL_CACHE",
            help="A folder that keeps what was read for the next run. It holds your texts: keep it private.",
        ),
    ] = None,
    cache_size: Annotated[
        int, typer.Option("--cache-size", min=1, help="Most megabytes in that folder; the least recently used go.")
    ] = 1000,
    low_memory: Annotated[
        bool,
        typer.Option("--low-memory", help="Never hold both models: the policy is closed before the aligner opens."),
    ] = False,
    draft: Annotated[
        bool,
        typer.Option(
            "--draft/--no-draft", help="Guess tokens from the answer and verify them (same text up to near-ties)."
        ),
    ] = True,
    layout: Annotated[
        str, typer.Option("--layout", help="The aligner's prompt layout, if it has no manifest that names it.")
    ] = "",
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", help="A Jinja file: the policy's template, and an aligner's that has none."),
    ] = None,
    objectives_file: Annotated[
        Path | None,
        typer.Option("--objectives-file", envvar="MAL_OBJECTIVES", help="A TOML file with objectives of your own."),
    ] = None,
) -> None:
    """Answer QUERY with a policy model, then edit the answer toward the objectives.

    Example: mal align "My parcel is a week late." --objectives "empathy,clarity"
    """
    from ..align import align_each
    from ..aligners import GgufAligner
    from ..chats import Chat, load_history, with_system
    from ..demo import DEMO_ALIGNER, DEMO_POLICY
    from ..errors import UsageError
    from ..generation import Sampling
    from ..gguf_file import read_header
    from ..llama.context import KV_TYPES
    from ..llama.engine import open_engine
    from ..objectives import load_catalogue, resolve
    from ..policies import GgufPolicy, GivenAnswer, Policy
    from ..prompts import IN_TURNS, Message, fit
    from ..thoughts import split_thoughts

    query, answer = _from_stdin(query, answer)
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    if answer is not None and policy and not adapter and _typed(context, "policy"):
        raise UsageError("--answer gives the text to edit, so no policy is asked; leave out --policy or --answer")
    if as_json and show:
        raise UsageError("--json prints every text; leave out --show or --json")
    if adapter and aligner:
        raise UsageError("--adapter works over the policy's own weights and --aligner is a model of its own; name one")
    if kv not in KV_TYPES:
        raise UsageError(f"unknown type of KV cache {kv!r}; expected --kv {' | '.join(KV_TYPES)}")
    catalogue = load_catalogue(objectives_file)
    wanted = [resolve(names, catalogue) for names in objectives or [""]]
    template = _template(chat_template)
    before = load_history(history) if history else Chat(())
    turns = with_system(before.turns, system) if system else before.turns
    sampling = Sampling(temperature=temperature, seed=seed)
    screen = _Screen(show, as_json, several=len(wanted) > 1, streams=len(wanted) == rounds == 1)

    def opened(path: Path, adapter: Path | None = None) -> Engine:
        engine = open_engine(
            path,
            adapter=adapter,
            ctx_size=ctx_size,
            threads=threads,
            gpu_layers=gpu_layers,
            kv=kv,
            cache=cache,
            cache_bytes=cache_size * 1_000_000,
            say=screen.say,
        )
        if ctx_size > (trained := engine.model.n_ctx_train):
            screen.say(f"{path.name} was trained for {trained:,} tokens; text beyond them may come out as nonsense")
        return engine

    def asked(engine: Engine) -> GgufPolicy:
        return GgufPolicy(engine, template=template, sampling=sampling, max_tokens=max_tokens)

    source: Policy | None = GivenAnswer(answer) if answer is not None else None
    if answer is not None:
        screen.draft(split_thoughts(answer).answer)
    elif low_memory and not adapter:
        read_header(aligner or DEMO_ALIGNER)  # a wrong path is told before the policy's work, not after it
        with opened(policy or DEMO_POLICY) as engine:
            drafted = asked(engine).answer(query, screen.draft, turns)
        source = GivenAnswer(drafted.text, drafted.generation, drafted.reasoning, drafted.notes)
    with ExitStack() as models:
        shared = models.enter_context(opened(policy or DEMO_POLICY, adapter)) if adapter else None
        editor = GgufAligner(
            shared or models.enter_context(opened(aligner or DEMO_ALIGNER)),
            layout=layout,
            template=template,
            sampling=sampling,
            max_tokens=max_tokens,
            draft=draft,
        )
        if source is None:
            source = asked(shared or models.enter_context(opened(policy or DEMO_POLICY)))
        for note in _notes_on(
            editor, wanted, embedded=not (aligner or adapter), foreign=bool(policy) or answer is not None
        ):
            screen.say(note)
        held = editor.template if editor.layout in IN_TURNS else None
        for note in (*before.notes, *fit([*turns, Message("user", query)], held)[1]):
            screen.say(note)
        corrections = align_each(
            query,
            wanted,
            policy=source,
            aligner=editor,
            history=turns,
            rounds=rounds,
            on_answer=screen.draft,
            on_edit=screen.edit,
        )
    screen.finish(corrections)
    if any(correction.failure for correction in corrections):
        raise typer.Exit(1)


def _typed(context: typer.Context, option: str) -> bool:
    """Whether an option stands on the command line, rather than in the environment."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _from_stdin(query: str | None, answer: str | None) -> tuple[str, str | None]:
    """Fill the one text that was left to standard input: the query by default, the answer if it is '-'."""
    from ..errors import UsageError
    from ..files import decode_text

    query_waits = query in (None, "-")
    if query_waits and answer == "-":
        raise UsageError("both the query and --answer would be read from standard input; give one of them as text")
    if not query_waits and answer != "-":
        return str(query), answer
    if query is None and sys.stdin.isatty():
        raise UsageError('no query; give one as text, such as mal align "My parcel is late." -o empathy, or pipe it in')
    read = decode_text(sys.stdin.buffer.read(), "standard input").strip("\n")
    return (read, answer) if query_waits else (str(query), read)


def _template(path: Path | None) -> ChatTemplate | None:
    from ..files import read_text
    from ..prompts import ChatTemplate

    return ChatTemplate(read_text(path, "the chat template")) if path else None


def _notes_on(editor: GgufAligner, wanted: list[list[Objective]], *, embedded: bool, foreign: bool) -> list[str]:
    """What a user should know before the run: which aligner, what it was trained for."""
    told = []
    manifest = editor.manifest
    if embedded and foreign:
        told.append(
            "the embedded aligner is a demonstration: it knows short everyday support messages and little else; "
            "name your own with --aligner"
        )
    if manifest is None or not manifest.layout:
        lacks = "no manifest" if manifest is None else "a manifest without a layout"
        told.append(f"{editor.engine.model.path.name} has {lacks}; prompting it in the layout {editor.layout}")
    elif manifest.layout != editor.layout:
        told.append(f"this aligner was trained in the layout {manifest.layout}, not in {editor.layout}")
    if manifest and manifest.objectives:
        asked = dict.fromkeys(objective.name for objectives in wanted for objective in objectives)
        if new := [name for name in asked if name not in manifest.objectives]:
            told.append(f"not among the objectives this aligner was trained on: {', '.join(new)}")
    return told


class _Screen:
    """Prints corrections as they come about: streamed on a terminal, at the end in a pipe, never with --json.

    With several sets of objectives, or several rounds, the answer streams, and the corrections follow when all are
    there (`streams` is off).
    """

    def __init__(self, show: Show | None, as_json: bool, *, several: bool, streams: bool) -> None:
        from .console import results, talk

        terminal = sys.stdout.isatty()
        self._mode = show or (Show.diff if terminal else Show.final)
        self._json, self._several, self._streams = as_json, several, streams
        self._live = terminal and not as_json
        self._out, self._talk = results(), talk()
        self._stage = ""
        self._said: set[str] = set()

    def say(self, note: str) -> None:
        """A note on stderr, such as which aligner is used."""
        if note not in self._said:
            self._said.add(note)
            self._talk.print(f"note: {note}", style="yellow")

    def draft(self, text: str) -> None:
        """The next part of the weak answer."""
        if self._live and self._mode is not Show.final:
            self._stream("policy", text)

    def edit(self, text: str) -> None:
        """The next part of the aligned answer."""
        if self._live and self._streams:
            self._stream("aligned", text)

    def finish(self, corrections: list[Correction]) -> None:
        """What is left to print once all texts are there."""
        from ..output import account, notes, record
        from .console import print_json

        if self._json:
            records = [record(correction) for correction in corrections]
            print_json(records if self._several else records[0])
        elif self._live:
            for correction in corrections:
                self._finish_live(correction)
            self._out.print()
        else:
            self._print_whole(corrections)
        for note in dict.fromkeys(note for correction in corrections for note in notes(correction)):
            self.say(note)
        if not self._json:
            for line in account(corrections):
                self._talk.print(line, style="dim")

    def _stream(self, stage: str, text: str) -> None:
        from ..output import printable

        if stage != self._stage:
            self._heading(stage)
        self._out.print(printable(text), end="")
        self._out.file.flush()

    def _heading(self, name: str, *, always: bool = False) -> None:
        if self._stage:
            self._out.print("\n")
        self._stage = name
        if always or self._mode is not Show.final or self._several:
            self._out.print(name, style="bold cyan")

    def _finish_live(self, correction: Correction) -> None:
        from ..output import objective_names, word_diff

        names = objective_names(correction)
        if not correction.aligned:  # unless only final texts are shown, the answer is on the screen already
            self._heading(f"unchanged ({names})", always=True)
            if self._mode is Show.final:
                self._stream(self._stage, correction.text)
            return
        if not self._streams and self._mode is not Show.diff:
            self._stream(f"aligned ({names})", correction.text)
        if self._mode is Show.diff:
            self._heading(f"changes ({names})")
            styles = {"same": "dim", "removed": "red strike", "added": "bold green"}
            for kind, text in word_diff(correction.answer.text, correction.text):
                self._print_styled(text, styles[kind])

    def _print_styled(self, text: str, style: str) -> None:
        from ..output import printable

        self._out.print(printable(text), style=style, end="")

    def _print_whole(self, corrections: list[Correction]) -> None:
        from ..output import objective_names, plain_diff

        parts = [f"policy\n{corrections[0].answer.text}"] if self._mode is Show.both else []
        headed = self._several or self._mode is Show.both
        for correction in corrections:
            names = objective_names(correction)
            if not correction.aligned and self._mode is Show.both:
                parts.append(f"unchanged ({names})")
                continue
            text = plain_diff(correction.answer.text, correction.text) if self._mode is Show.diff else correction.text
            kind = "aligned" if correction.aligned else "unchanged"
            parts.append(f"{kind} ({names})\n{text}" if headed else text)
        sys.stdout.write("\n\n".join(parts) + "\n")

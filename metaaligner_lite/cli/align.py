"""`mal align`: ask the policy, let the aligner edit its answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt
from .screen import Screen, Show

if TYPE_CHECKING:
    from ..templates import ChatTemplate


def align(
    context: typer.Context,
    query: Annotated[
        str | None, typer.Argument(help="The message to answer; '-' or nothing reads it from standard input.")
    ] = None,
    objectives: opt.Objectives = None,
    policy: opt.Policy = None,
    aligner: opt.Aligner = None,
    adapter: opt.Adapter = None,
    answer: Annotated[
        str | None, typer.Option("--answer", help="Edit this text instead of asking a policy ('-': standard input).")
    ] = None,
    history: opt.History = None,
    system: opt.System = "",
    show: Annotated[
        Show | None, typer.Option("--show", help="What to print (default: both on a terminal, final in a pipe).")
    ] = None,
    as_json: opt.Json = False,
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
    cache: opt.Cache = None,
    cache_size: opt.CacheSize = 1000,
    low_memory: opt.LowMemory = False,
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
    """Answer QUERY with a policy model, then edit the answer toward the objectives.

    Example: mal align "My parcel is a week late." --objectives "empathy,clarity"
    """
    from .. import best
    from ..align import align_each
    from ..chats import Chat, load_history, with_system
    from ..errors import UsageError
    from ..gate import OPEN, Gate
    from ..generation import Sampling
    from ..llama.context import kv_type
    from ..objectives import load_catalogue, resolve
    from ..pair import Choice, open_pair
    from ..prompts import Message
    from ..thoughts import split_thoughts

    query, answer = _from_stdin(query, answer)
    if not query.strip():
        raise UsageError("the query is empty; give a question or a message to answer")
    if answer is not None and policy and not adapter and aligner != "self" and _typed(context, "policy"):
        raise UsageError("--answer gives the text to edit, so no policy is asked; leave out --policy or --answer")
    if answer is not None:
        opt.refuse_temperature(temperature, "--answer gives the text to edit")
    if as_json and show:
        raise UsageError("--json prints every text; leave out --show or --json")
    kv_type(kv)
    catalogue = load_catalogue(objectives_file)
    wanted = [resolve(names, catalogue) for names in objectives or [""]]
    before = load_history(history) if history else Chat(())
    turns = with_system(before.turns, system) if system else before.turns
    asked = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repeat_penalty": repeat_penalty}
    named: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    choice = Choice(
        policy,
        aligner,
        adapter,
        answer,
        layout=layout,
        template=read_template(chat_template),
        sampling=Sampling(temperature, seed=seed, dry=dry, **named),
        edit_temperature=edit_temperature,
        chosen=frozenset(named),
        max_tokens=max_tokens,
        draft=draft,
        low_memory=low_memory,
        engine=opt.engine(ctx_size, threads, gpu_layers, unpack, kv, force)
        | {"cache": cache, "cache_bytes": cache_size * 1_000_000},
        policy_model=policy_model,
        aligner_model=aligner_model,
        policy_key_env=policy_key_env,
        aligner_key_env=aligner_key_env,
        timeout=timeout,
    )
    screen = Screen(
        show, as_json, several=len(wanted) > 1, streams=len(wanted) == rounds == best_of == 1, given=answer is not None
    )
    if answer is not None:
        screen.answer(split_thoughts(answer).answer)
    past: dict[str, Any] = {"history": turns} if turns else {}
    with open_pair(choice, wanted, first=lambda it: it.answer(query, screen.answer, **past), say=screen.say) as pair:
        for note in (*before.notes, *pair.aligner.told([*turns, Message("user", query)])):
            screen.say(note)
        corrections = align_each(
            query,
            wanted,
            policy=pair.policy,
            aligner=best.best_of(pair.aligner, best_of),
            history=turns,
            rounds=rounds,
            on_answer=screen.answer,
            on_edit=screen.edit,
            gate=Gate() if gate else OPEN if best_of > 1 else None,
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
        raise UsageError(
            'no query; give one as text, such as mal align "My parcel is late." -o empathy, or pipe it in; '
            "for a conversation there is mal chat"
        )
    read = decode_text(sys.stdin.buffer.read(), "standard input").strip("\n")
    return (read, answer) if query_waits else (str(query), read)


def read_template(path: Path | None) -> ChatTemplate | None:
    """The chat template in a file, if one is named."""
    from ..files import read_text
    from ..templates import ChatTemplate

    return ChatTemplate(read_text(path, "the chat template")) if path else None

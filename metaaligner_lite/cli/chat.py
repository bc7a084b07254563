"""`mal chat`: a conversation in which every answer is aligned. What it does with turns is conversation.py's."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from . import options as opt
from .screen import Screen, Show


def chat(
    objectives: opt.Objectives = None,
    policy: opt.Policy = None,
    aligner: opt.Aligner = None,
    adapter: opt.Adapter = None,
    go_on: Annotated[bool, typer.Option("--continue", "-c", help="Take up the last conversation again.")] = False,
    history: opt.History = None,
    system: opt.System = "",
    show: Annotated[
        Show | None, typer.Option("--show", help="What to print (default: both on a terminal, final in a pipe).")
    ] = None,
    keep_policy_turns: Annotated[
        bool,
        typer.Option(
            "--keep-policy-turns/--keep-aligned-turns",
            help="Go on from the policy's own answers, instead of the aligned ones that were shown.",
        ),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the conversation, and what was typed, on the disk.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print each turn as a line of JSON.")] = False,
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
    """Talk to a policy model, with every answer edited toward the objectives.

    Each line is a message, of a pipe, too; /help lists the commands.

    Example: mal chat --objectives "empathy,clarity"
    """
    from .. import best
    from ..chats import with_system
    from ..conversation import Conversation, Kept, last_kept, load
    from ..errors import UsageError
    from ..gate import OPEN, Gate
    from ..generation import Sampling
    from ..llama.context import kv_type
    from ..objectives import load_catalogue, resolve
    from ..pair import Choice, open_pair
    from ..paths import state_dir
    from .align import read_template
    from .lines import open_lines
    from .session import COMMANDS, Session

    if objectives and len(objectives) > 1:
        raise UsageError("a conversation has one set of objectives at a time; give --objectives once, then /objectives")
    if as_json and show:
        raise UsageError("--json prints every text; leave out --show or --json")
    if go_on and history:
        raise UsageError("--continue takes up the last conversation, --history another; give one of them")
    kv_type(kv)
    folder = state_dir() / "chats"
    catalogue = load_catalogue(objectives_file)
    path = last_kept(folder) if go_on else history
    if go_on and path is None:
        raise UsageError(f"there is no conversation to take up in {folder}; leave out --continue")
    saved = load(path) if path else None
    wanted = tuple(resolve(objectives[0], catalogue)) if objectives else saved.objectives if saved else ()
    wanted = wanted or tuple(resolve("", catalogue))
    if system and saved and saved.system and not go_on:
        raise UsageError("the conversation has a system text of its own; give one, or change it by /system")
    asked = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repeat_penalty": repeat_penalty}
    named: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    choice = Choice(
        policy,
        aligner,
        adapter,
        layout=layout,
        template=read_template(chat_template),
        sampling=Sampling(temperature, seed=seed, dry=dry, **named),
        edit_temperature=edit_temperature,
        chosen=frozenset(named),
        max_tokens=max_tokens,
        draft=draft,
        engine=opt.engine(ctx_size, threads, gpu_layers, unpack, kv, force)
        | {"cache": cache, "cache_bytes": cache_size * 1_000_000},
        policy_model=policy_model,
        aligner_model=aligner_model,
        policy_key_env=policy_key_env,
        aligner_key_env=aligner_key_env,
        timeout=timeout,
    )
    said: set[str] = set()
    with open_pair(choice, [wanted], say=Screen(show, as_json, several=False, streams=False, said=said).say) as pair:
        conversation = Conversation(
            pair.policy,
            best.best_of(pair.aligner, best_of),
            wanted,
            keep_policy_turns=keep_policy_turns,
            rounds=rounds,
            gate=Gate() if gate else OPEN if best_of > 1 else None,
        )
        session = Session(
            conversation,
            Kept(folder, path if go_on else None) if keep else None,
            catalogue=catalogue,
            show=show,
            as_json=as_json,
            said=said,
        )
        if saved:
            session.take_up(saved, keep_policy_turns=keep_policy_turns or None)
            conversation.objectives = wanted
        if system:
            conversation.system = with_system((), system)[0].content
        lines = open_lines(session.status, COMMANDS, list(catalogue), state_dir() / "chat_lines" if keep else None)
        session.talk(lines)
    if session.failed and not sys.stdin.isatty():
        raise typer.Exit(1)

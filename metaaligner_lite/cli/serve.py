"""`mal serve`: a pair behind OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..objectives import Objective
    from ..pair import Pair
    from ..serve.sets import Chosen, Sets

_WHO, _HOW = "Who may use it", "How it works"
_DEFAULT = "empathy,clarity"


def serve(
    objectives: opt.Objectives = None,
    policy: opt.Policy = None,
    aligner: opt.Aligner = None,
    adapter: opt.Adapter = None,
    sets: Annotated[
        Path | None,
        typer.Option(
            "--sets",
            envvar="MAL_SETS",
            help='A TOML file of named sets: [gentle] objectives = ["empathy"]. Each is a model of its name.',
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address to listen on; other than 127.0.0.1 needs a key.", rich_help_panel=_WHO
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.", rich_help_panel=_WHO)
    ] = 8765,
    api_key: Annotated[
        str,
        typer.Option(
            "--api-key",
            envvar="MAL_SERVE_KEY",
            help="What clients must know. Other users of this machine see it in the list of processes: prefer a file.",
            rich_help_panel=_WHO,
        ),
    ] = "",
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A file that holds the key.", rich_help_panel=_WHO)
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", help="Another name of this server, such as host.docker.internal.", rich_help_panel=_WHO
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="A web page's origin that may use it, such as https://chat.example; '*': any.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, max=64, help="Requests worked on at once.", rich_help_panel=_HOW)
    ] = 4,
    queue: Annotated[
        int,
        typer.Option(
            "--queue", min=1, help="Requests that may wait; more are told to come again.", rich_help_panel=_HOW
        ),
    ] = 64,
    keep: Annotated[
        int,
        typer.Option(
            "--keep", min=0, help="Megabytes of memory that keep what was read of conversations.", rich_help_panel=_HOW
        ),
    ] = 512,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, help="Seconds that a request may take.", rich_help_panel=_HOW)
    ] = 600.0,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds that requests have to end at the end.", rich_help_panel=_HOW),
    ] = 30.0,
    max_body: Annotated[
        float, typer.Option("--max-body", min=0.001, help="Megabytes of a request.", rich_help_panel=_HOW)
    ] = 4.0,
    max_messages: Annotated[
        int, typer.Option("--max-messages", min=1, help="Messages of a request.", rich_help_panel=_HOW)
    ] = 2000,
    metrics: Annotated[
        bool,
        typer.Option("--metrics", help="Tell Prometheus of requests and tokens at /metrics.", rich_help_panel=_HOW),
    ] = False,
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="Write queries and answers into the log.", rich_help_panel=_HOW)
    ] = False,
    show: Annotated[
        str, typer.Option("--show", help="'both' streams the policy's answer first, as reasoning.")
    ] = "aligned",
    rounds: opt.Rounds = 1,
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
    """Serve the pair to every client that speaks OpenAI's protocol, and a page at / to look at it.

    Example: mal serve --policy model.gguf -o "empathy,clarity"
    """
    from ..errors import UsageError, require_extra

    require_extra("serve", "starlette", "uvicorn", "pydantic")
    if metrics:
        require_extra("serve", "prometheus_client")
    from ..generation import Sampling
    from ..llama.context import kv_type
    from ..objectives import load_catalogue, resolve
    from ..output import printable
    from ..pair import Choice, open_pair
    from ..serve.app import Limits, Service, application
    from ..serve.listen import Server, listen
    from ..serve.metrics import Metrics
    from ..serve.protocol import Defaults
    from ..serve.safety import Door, loopback
    from ..serve.sets import SHOWN, Chosen
    from ..serve.worker import Workers
    from .align import read_template
    from .console import flagged, talk

    if objectives and len(objectives) > 1:
        raise UsageError("a server has one set of objectives by default; name others in a file with --sets")
    if show not in SHOWN:
        raise UsageError(f"--show cannot be {show!r}; expected {' or '.join(SHOWN)}")
    if rounds > 8:
        raise UsageError("--rounds can be 8 at most here")
    kv_type(kv)
    key = _key(api_key, api_key_file)
    if not loopback(host) and not key:
        raise UsageError(f"others can reach {host}: give --api-key-file, or stay on 127.0.0.1")
    catalogue = load_catalogue(objectives_file)
    default = Chosen(tuple(resolve(objectives[0] if objectives else _DEFAULT, catalogue)), gate, show, rounds)
    named = _sets(sets, catalogue, default)
    asked = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repeat_penalty": repeat_penalty}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    sampling = Sampling(temperature, seed=seed, dry=dry, **chosen)
    choice = Choice(
        policy,
        aligner,
        adapter,
        layout=layout,
        template=read_template(chat_template),
        sampling=sampling,
        edit_temperature=edit_temperature,
        chosen=frozenset(chosen),
        max_tokens=max_tokens,
        draft=draft,
        engine=opt.engine(ctx_size, threads, gpu_layers, unpack, kv, force),
        policy_model=policy_model,
        aligner_model=aligner_model,
        policy_key_env=policy_key_env,
        aligner_key_env=aligner_key_env,
        timeout=timeout,
    )
    console = talk()

    def say(text: str) -> None:
        console.print(printable(text))

    def note(text: str) -> None:
        console.print(f"note: {printable(flagged(text))}", style="bold")

    wanted = [one.objectives for one in (default, *named.named.values())]
    with listen(host, port) as listener, open_pair(choice, wanted, say=note) as pair:
        workers = Workers(
            pair, in_flight=in_flight, capacity=queue, time_limit=time_limit, shelf_bytes=keep * 1_000_000
        )
        service = Service(
            workers,
            Defaults(named, catalogue, sampling, frozenset(chosen), max_tokens, max_messages, edit_temperature),
            Door(key, tuple(allow_host or ()), tuple(allow_origin or ())),
            Limits(body=round(max_body * 1_000_000)),
            pair.aligner.known,
            _names(pair),
            Metrics(workers) if metrics else None,
            say,
            log_texts,
        )
        address = listener.getsockname()
        where = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"

        def ready() -> None:
            say(f"{where}/v1 speaks OpenAI's protocol; models: {', '.join(named.ids)}; {where}/ is the page")

        Server(application(service), listener, workers, grace=grace, ready=ready, say=say).serve_forever()


def _key(given: str, file: Path | None) -> str:
    """The key that clients must know, "" if none."""
    from ..errors import UsageError
    from ..files import read_text

    if given and file:
        raise UsageError("two keys are given; leave out --api-key or --api-key-file")
    key = read_text(file, "the file of the key").strip() if file else given.strip()
    if (file or given) and (not key or not key.isascii() or len(key.split()) != 1):
        raise UsageError("the key must be one word of plain characters")
    return key


def _sets(path: Path | None, catalogue: Mapping[str, Objective], default: Chosen) -> Sets:
    from ..serve.sets import Sets, read_sets

    return Sets(default, read_sets(path, catalogue, default) if path else {})


def _names(pair: Pair) -> tuple[str, str]:
    """What the policy's and the aligner's models are called."""

    def name(of: Any) -> str:
        return str(of.engine.model.path.name if hasattr(of, "engine") else of.endpoint.model)

    return name(pair.policy), name(pair.aligner)

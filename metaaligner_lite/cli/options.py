"""Options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objectives",
        "-o",
        help='What a better answer does: names, or "name: description" (see: mal objectives list). '
        "Given several times: a correction for each, from one answer.",
    ),
]
ObjectivesFile = Annotated[
    Path | None,
    typer.Option("--objectives-file", envvar="MAL_OBJECTIVES", help="A TOML file with objectives of your own."),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        envvar="MAL_POLICY",
        help="The model that answers: a GGUF file, owner/repo[:QUANT] of the Hugging Face Hub, or the URL of an "
        "OpenAI-compatible server (default: an installed one).",
    ),
]
Aligner = Annotated[
    str | None,
    typer.Option(
        "--aligner",
        "-a",
        envvar="MAL_ALIGNER",
        help="The model that edits, named likewise, or 'self': the policy edits its own answer "
        "(default: what ships, else self).",
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", envvar="MAL_ADAPTER", help="An activated adapter, over --aligner or else over the policy."
    ),
]
PolicyModel = Annotated[
    str, typer.Option("--policy-model", envvar="MAL_POLICY_MODEL", help="Which of the policy's server's models.")
]
AlignerModel = Annotated[
    str, typer.Option("--aligner-model", envvar="MAL_ALIGNER_MODEL", help="Which of the aligner's server's models.")
]
PolicyKeyEnv = Annotated[
    str,
    typer.Option(
        "--policy-key-env",
        metavar="NAME",
        help="The environment variable that holds the key of the policy's server (default: MAL_API_KEY; for OpenAI's "
        "own, OPENAI_API_KEY).",
    ),
]
AlignerKeyEnv = Annotated[str, typer.Option("--aligner-key-env", metavar="NAME", help="... of the aligner's server.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for which a server may be silent.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest text of each stage (default: fits the answer's length)."),
]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="The policy's; 0 is greedy and repeatable.")]
EditTemperature = Annotated[
    float, typer.Option("--edit-temperature", min=0.0, help="The aligner's; an edit is best greedy.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Makes sampling repeatable.")]
TopP = Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Sample from this share of likelihood.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, help="Sample from so many tokens; 0 is all.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", min=0.0, max=1.0, help="Leave out tokens less likely than this of the best.")
]
RepeatPenalty = Annotated[
    float | None, typer.Option("--repeat-penalty", min=0.0, help="Make words of the last 64 less likely; 1 is off.")
]
Dry = Annotated[float, typer.Option("--dry", min=0.0, help="Make repeated phrases less likely (DRY); 0 is off.")]
CtxSize = Annotated[
    int, typer.Option("--ctx-size", min=0, help="Most tokens of prompt and text together (default: the model's).")
]
Threads = Annotated[
    int, typer.Option("--threads", "-t", min=0, envvar="MAL_THREADS", help="CPU threads (default: one per core).")
]
GpuLayers = Annotated[
    int, typer.Option("--gpu-layers", min=-1, envvar="MAL_GPU_LAYERS", help="Layers on a GPU, if any; -1 is all.")
]
Unpack = Annotated[
    bool | None,
    typer.Option(
        "--unpack/--no-unpack",
        envvar="MAL_UNPACK",
        help="Run a copy of the weights as F16, kept in the cache folder: many processors read it faster (default: "
        "small models of slow types, or what `mal tune` found).",
        show_default=False,
    ),
]
Kv = Annotated[
    str,
    typer.Option(
        "--kv",
        help="Type of the KV cache: f16, q8_0 (half the memory), q4_0, bf16, f32. A quantized one needs flash "
        "attention, which on a CPU makes writing slower.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="MAL_CACHE",
        help="A folder that keeps what was read for the next run. It holds your texts: keep it private.",
    ),
]
CacheSize = Annotated[
    int, typer.Option("--cache-size", min=1, help="Most megabytes in that folder; the least recently used go.")
]
LowMemory = Annotated[
    bool, typer.Option("--low-memory", help="Never hold both models: the policy is closed before the aligner opens.")
]
Draft = Annotated[
    bool,
    typer.Option(
        "--draft/--no-draft", help="Guess tokens from the answer and verify them (same text up to near-ties)."
    ),
]
Layout = Annotated[
    str, typer.Option("--layout", help="The aligner's prompt layout, if it has no manifest that names it.")
]
ChatTemplateFile = Annotated[
    Path | None,
    typer.Option("--chat-template", help="A Jinja file: the policy's template, and an aligner's that has none."),
]
System = Annotated[str, typer.Option("--system", help="A system text for the policy, or @FILE that holds it.")]
History = Annotated[
    Path | None,
    typer.Option("--history", help='The turns before QUERY, as JSON: [{"role": "user", "content": "..."}, ...].'),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document: texts, counts, seconds.")]
Rounds = Annotated[
    int, typer.Option("--rounds", min=1, help="Edit the edited answer again, up to so many times in all.")
]
BestOf = Annotated[
    int,
    typer.Option(
        "--best-of",
        min=1,
        help="Write so many edits, all but the first sampled with the seeds that follow --seed, and keep the one "
        "that the aligner holds likeliest.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Use an adapter over another base than it was trained on.")]
Gate = Annotated[
    bool,
    typer.Option("--gate/--no-gate", help="Keep the answer where the aligner itself holds its edit too unlikely."),
]


def engine(ctx_size: int, threads: int, gpu_layers: int, unpack: bool | None, kv: str, force: bool) -> dict[str, Any]:
    """What these options ask of an engine, as `Choice.engine` takes it."""
    return {
        "ctx_size": ctx_size,
        "threads": threads,
        "gpu_layers": gpu_layers,
        "unpack": unpack,
        "kv": kv,
        "force": force,
    }


def refuse_temperature(temperature: float, why: str) -> None:
    """Raise UsageError for a temperature where no policy writes."""
    if temperature:
        from ..errors import UsageError

        raise UsageError(
            f"{why}, so --temperature has nothing to act on; "
            "--edit-temperature is the aligner's (an edit is best greedy)"
        )

"""`mal convert`: from a Hugging Face model folder to GGUF files, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mal_convert import ConversionReport

_TYPES = "Output types (several at once; --type has all others)"


def _type(name: str, meaning: str) -> Any:
    return typer.Option(f"--{name}", help=meaning, rich_help_panel=_TYPES)


def convert(
    source: Annotated[Path, typer.Argument(help="Model folder with config.json, safetensors and tokenizer.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder, or a .gguf file name for one type. [default: SOURCE]")
    ] = None,
    q4_k_m: Annotated[bool, _type("q4_k_m", "4 bits; the usual choice.")] = False,
    q8_0: Annotated[bool, _type("q8_0", "8 bits; hardly different from the original.")] = False,
    q6_k: Annotated[bool, _type("q6_k", "6 bits.")] = False,
    q5_k_m: Annotated[bool, _type("q5_k_m", "5 bits.")] = False,
    q5_k_s: Annotated[bool, _type("q5_k_s", "5 bits, smaller.")] = False,
    q4_k_s: Annotated[bool, _type("q4_k_s", "4 bits, smaller.")] = False,
    q4_0: Annotated[bool, _type("q4_0", "4 bits, simple blocks.")] = False,
    q3_k_m: Annotated[bool, _type("q3_k_m", "3 bits.")] = False,
    q2_k: Annotated[bool, _type("q2_k", "2 bits; expect damage.")] = False,
    f16: Annotated[bool, _type("f16", "16-bit floats.")] = False,
    bf16: Annotated[bool, _type("bf16", "16-bit floats with the range of 32-bit ones.")] = False,
    f32: Annotated[bool, _type("f32", "32-bit floats.")] = False,
    type_: Annotated[
        list[str] | None, typer.Option("--type", "-t", metavar="NAME", help="Any type of llama.cpp; repeatable.")
    ] = None,
    pre: Annotated[
        str | None, typer.Option(help="Pre-tokenizer, by llama.cpp's name, if it is not found; checked all the same.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the checks after writing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a model folder to GGUF, quantize it, and check that the result is the same model."""
    from ..errors import require_extra

    require_extra("convert", "tokenizers", "sentencepiece")
    flags = {
        "Q4_K_M": q4_k_m,
        "Q8_0": q8_0,
        "Q6_K": q6_k,
        "Q5_K_M": q5_k_m,
        "Q5_K_S": q5_k_s,
        "Q4_K_S": q4_k_s,
        "Q4_0": q4_0,
        "Q3_K_M": q3_k_m,
        "Q2_K": q2_k,
        "F16": f16,
        "BF16": bf16,
        "F32": f32,
    }
    types = [name for name, wanted in flags.items() if wanted] + list(type_ or [])
    if dry_run:
        _show_plan(source, out, types, pre, force, as_json)
        return
    import mal_convert

    with _progress_bar() as progress:
        report = mal_convert.convert(source, out, types, pre=pre, force=force, verify=not no_verify, progress=progress)
    _show(report, as_json)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per stage on stderr, with the share done and the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from .console import talk

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=talk(), transient=True)
    stages: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        bar.start()
        if what not in stages:
            stages[what] = bar.add_task(what)
        bar.update(stages[what], completed=done, total=total)

    try:
        yield tell
    finally:
        if stages:
            bar.stop()


def _show(report: ConversionReport, as_json: bool) -> None:
    from dataclasses import asdict

    from .console import human_bytes, print_json, talk

    if as_json:
        print_json(_plain(asdict(report)))
        return
    console = talk()
    for output in report.outputs:
        console.print(f"{output.type:8} {human_bytes(output.bytes):>9}  {output.bits_per_weight:.2f} bits per weight")
        for remark in output.remarks:
            console.print(f"         {remark}", style="yellow")
    console.print(f"{report.parameters:,} parameters, {report.seconds:.1f} s")
    for output in report.outputs:
        print(output.path)


def _show_plan(source: Path, out: Path | None, types: list[str], pre: str | None, force: bool, as_json: bool) -> None:
    from mal_convert.job import prepare

    from .console import human_bytes, print_json

    job = prepare(source, out, types, pre=pre, force=force)
    if as_json:
        print_json(
            {
                "architecture": job.architecture.gguf,
                "parameters": job.parameters,
                "pre_tokenizer": job.vocabulary.pre[0],
                "bytes_needed": job.bytes_needed,
                "outputs": {name: str(path) for name, path in job.outputs.items()},
                "tensors": [{"name": step.name, "shape": list(step.shape)} for step in job.steps],
            }
        )
        return
    for step in job.steps:
        print(f"{step.name:32} {'x'.join(map(str, step.shape)):16} {step.source.name if step.source else 'computed'}")
    print(f"{job.architecture.gguf}, {job.parameters:,} parameters, pre-tokenizer {job.vocabulary.pre[0]}")
    for name, path in job.outputs.items():
        print(f"{name:8} {path}")
    print(f"needs up to {human_bytes(job.bytes_needed)} while it runs")


def _plain(value: Any) -> Any:
    """Paths as text, so that JSON takes them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

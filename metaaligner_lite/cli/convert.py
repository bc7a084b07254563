"""`mal convert`: from a Hugging Face model folder to GGUF files, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mal_convert import ConversionReport, Preview

_TYPES = "Output types (several at once; --type has all others)"


def _type(name: str, meaning: str) -> Any:
    return typer.Option(f"--{name}", help=meaning, rich_help_panel=_TYPES)


def convert(
    source: Annotated[
        str, typer.Argument(help="Model folder, Hugging Face id, PEFT adapter folder, or unquantized .gguf file.")
    ],
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
    base: Annotated[
        str | None, typer.Option(help="Folder or Hugging Face id of an adapter's base. [default: the one it names]")
    ] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Convert an adapter alone, to be used beside its base.")
    ] = False,
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
    arguments: dict[str, Any] = {"base": base, "adapter_only": adapter_only, "pre": pre}
    import mal_convert

    if dry_run:
        _show_plan(mal_convert.preview(source, out, types, **arguments), as_json)
        return
    with _progress_bar() as progress:
        report = mal_convert.convert(
            source, out, types, force=force, verify=not no_verify, progress=progress, **arguments
        )
    _show(report, as_json)


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per stage on stderr: bytes while writing, tensors while quantizing, the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from .console import human_bytes, talk

    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[amount]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=talk(), transient=True)
    stages: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        bar.start()
        if what not in stages:
            stages[what] = bar.add_task(what, amount="")
        counted = human_bytes if what.startswith("writing") else str
        bar.update(stages[what], completed=done, total=total, amount=f"{counted(done)} of {counted(total)}")

    try:
        yield tell
    finally:
        if stages:
            bar.stop()


def _show(report: ConversionReport, as_json: bool) -> None:
    from dataclasses import asdict

    from .console import human_bytes, print_json

    if as_json:
        print_json(_plain(asdict(report)))
        return
    checks = {check.type: check for check in report.checks}
    for output in report.outputs:
        size = f"{human_bytes(output.bytes):>9}  {output.bits_per_weight:5.2f} bits per weight"
        print(f"{output.type:8}{size}  {output.path}")
        if (check := checks.get(output.type)) is not None:
            print(f"{'':8}rounding   " + ", ".join(f"{k} {_share(v)}" for k, v in check.tensor_errors.items()))
            if check.logits_error is not None and check.agreement is not None:
                same = f"same likeliest token at {check.agreement:.0%} of positions"
                print(f"{'':8}logits     {_share(check.logits_error)} from the source's; {same}")
        for remark in output.remarks:
            print(f"{'':8}llama.cpp  {remark}")
    proved = "token ids, logits and tensors checked against the source" if report.checks else "not verified"
    print(f"{report.parameters:,} parameters in {report.seconds:.1f} s; {proved}")


def _share(error: float) -> str:
    """An error relative to the size of what it is an error of, for people."""
    return "exact" if error == 0 else f"{error:.2%}" if error >= 1e-4 else f"{error:.0e}"


def _show_plan(plan: Preview, as_json: bool) -> None:
    from dataclasses import asdict

    from .console import human_bytes, print_json

    if as_json:
        print_json(_plain(asdict(plan)))
        return
    for tensor in plan.tensors:
        print(f"{tensor.name:32} {' x '.join(map(str, tensor.shape)):16} {tensor.made_of}")
    print(f"{plan.architecture}, {plan.parameters:,} parameters; pre-tokenizer {plan.pre_tokenizer or 'none'}")
    for name, path in plan.outputs.items():
        print(f"{name:8}{path}")
    print(f"needs at most {human_bytes(plan.bytes_needed)} of disk while it runs; nothing was written")


def _plain(value: Any) -> Any:
    """Paths as text, so that JSON takes them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

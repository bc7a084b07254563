"""`mal convert`: from a Hugging Face model folder to GGUF files, verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mal_convert import ConversionReport, Preview

_TYPES = "Output types (several at once; --type has all others)"
# Spelled out, so that --help need not ask llama.cpp; a test compares.
ALL_TYPES = (
    "F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K "
    "IQ4_NL IQ4_XS IQ3_M IQ3_S TQ2_0 TQ1_0"
)
MATRIX_TYPES = "IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S Q2_K_S"


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
        list[str] | None,
        typer.Option(
            "--type", "-t", metavar="NAME", help=f"Repeatable; one of {ALL_TYPES}; with --imatrix also {MATRIX_TYPES}."
        ),
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
    imatrix: Annotated[
        Path | None,
        typer.Option(
            "--imatrix", help="Text to compute an importance matrix from, with the model itself; or such a matrix."
        ),
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
    arguments: dict[str, Any] = {"base": base, "adapter_only": adapter_only, "pre": pre, "imatrix": imatrix}
    # numpy's threads wait for each other, spinning: on a busy machine two of them take 100 times as long as one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
    """One bar per stage on stderr, with bytes (files while verifying) and the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from mal_convert.report import SPACE

    from .console import human_bytes, talk

    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[amount]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=talk(), transient=True)
    stages: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what == SPACE:
            talk().print(f"needs at most {human_bytes(done)} of disk while it runs; {human_bytes(total)} are free")
            return
        bar.start()
        if what not in stages:
            stages[what] = bar.add_task(what, amount="")
        counted = str if what == "verifying" else human_bytes
        bar.update(stages[what], completed=done, total=total, amount=f"{counted(done)} of {counted(total)}")

    try:
        yield tell
    finally:
        if stages:
            bar.stop()


def _show(report: ConversionReport, as_json: bool) -> None:
    from dataclasses import asdict

    from .console import print_json, talk

    for note in report.notes:
        talk().print(f"note: {note}")
    if as_json:
        print_json(_plain(asdict(report)))
        return
    _show_table(report)
    for output in report.outputs:
        print(f"{output.type}: {output.path}")
        for remark in output.remarks:
            print(f"    llama.cpp: {remark}")
    proved = "token ids, logits and tensors checked against the source"
    if not report.checks:
        proved = "not verified"
    elif not report.pre_tokenizer and report.checks[0].logits_error is None:
        proved = "shapes checked against the base's config, tensors against the source; not run"
    print(f"{report.parameters:,} parameters in {report.seconds:.1f} s; {proved}")


def _show_table(report: ConversionReport) -> None:
    """One line per file: its size, and how far it is from the source."""
    from .console import human_bytes

    checks = {check.type: check for check in report.checks}
    head = [*("type", "size", "bits per weight", "logits differ by", "without the matrix", "same likeliest token")]
    head.append("rounding error of tensors")
    rows = [head]
    for output in report.outputs:
        row = [output.type, human_bytes(output.bytes), f"{output.bits_per_weight:.2f}", "", "", "", ""]
        if (check := checks.get(output.type)) is not None:
            row[6] = ", ".join(f"{kind} {_share(error)}" for kind, error in check.tensor_errors.items())
            if check.logits_error is not None and check.agreement is not None:
                row[3], row[5] = _share(check.logits_error), f"{check.agreement:.0%}"
            row[4] = "" if check.without_matrix is None else _share(check.without_matrix)
        rows.append(row)
    shown = [i for i in range(7) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in shown}
    for row in rows:
        print("  ".join(row[i].ljust(widths[i]) for i in shown).rstrip())


def _share(error: float) -> str:
    """An error relative to the size of what it is an error of, for people."""
    return "exact" if error == 0 else f"{error:.2%}" if error >= 1e-4 else f"{error:.0e}"


def _show_plan(plan: Preview, as_json: bool) -> None:
    from dataclasses import asdict

    from .console import human_bytes, print_json, talk

    for note in plan.notes:
        talk().print(f"note: {note}")
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

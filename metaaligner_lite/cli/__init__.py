"""`mal`: one small file per command. Errors become exit codes here and only here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import MalError
from . import align, batch, chat, convert, data, doctor, evaluate, info, objectives, serve, train_lora, tune

app = typer.Typer(
    name="mal",
    help="Edit the answers of any language model toward objectives named in plain words. Local, on llama.cpp.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("align")(align.align)
app.command("chat")(chat.chat)
app.command("batch")(batch.batch)
app.command("serve")(serve.serve)
app.command("eval")(evaluate.evaluate)
app.add_typer(objectives.app, name="objectives")
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.command("tune")(tune.tune)
app.add_typer(data.app, name="data")
app.command("train-lora")(train_lora.train_lora)
app.command("convert")(convert.convert)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"metaaligner-lite {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works behind any command.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run `mal`. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    args, debug = _hoist_debug(sys.argv[1:])
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file or a pipe gets UTF-8; a terminal shows what it can
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors="replace")
    try:
        try:
            app(args=args)
        finally:
            sys.stdout.flush()  # here, so that a full disk behind a redirection is an error like any other
    except SystemExit as ended:
        if ended.code == 2 and (text := _dashed_text(args)):
            print(f'a text that begins with "-" needs "--" before it: mal ... -- {text!r}', file=sys.stderr)
        raise
    except (MalError, OSError, MemoryError) as error:
        if debug:
            raise
        _forget_output()
        if not isinstance(error, BrokenPipeError):  # whoever reads our output has seen enough
            print(f"mal: error: {_told(error)}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _forget_output() -> None:
    """Drop what stdout could not take, or Python would complain of it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Let a stream that the caller closed (`>&-`) lead nowhere, as the null device does."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  it serves to the end


def _told(error: BaseException) -> str:
    """An error in one line that a terminal can show; a plain OSError is one of writing the output."""
    from ..output import printable
    from .console import flagged

    text = flagged(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, MalError) and not error.filename and error.strerror:
        text = f"cannot write the output: {error.strerror}"
    return printable(text)


def _dashed_text(args: list[str]) -> str:
    """An argument that was taken for an option and may be a text, such as "-5 degrees outside"; "" if there is none."""
    before = args[: args.index("--")] if "--" in args else args
    return next((arg for arg in before if arg[:1] == "-" and (" " in arg or arg[1:2].isdigit())), "")


def _hoist_debug(args: list[str]) -> tuple[list[str], bool]:
    """Let --debug stand anywhere before a "--", as people type it."""
    end = args.index("--") if "--" in args else len(args)
    if "--debug" not in args[:end]:
        return args, False
    return ["--debug", *(arg for i, arg in enumerate(args) if i >= end or arg != "--debug")], True

"""The errors a user can meet. Each message says what was found, what was expected and what to do next.

Library callers catch `MalError`; the command line turns it into one line and `exit_code`, nowhere else.
"""


class MalError(Exception):
    """Something the user can mend; the message tells how."""

    exit_code = 1


class UsageError(MalError, ValueError):
    """The request itself is off: an empty query, an unknown objective, an option out of range."""

    exit_code = 2


class FileProblem(MalError, OSError):
    """A file is missing, damaged, of the wrong kind, or cannot be written."""


class ModelError(MalError, RuntimeError):
    """llama.cpp cannot open or run a model."""


class EndpointError(MalError, RuntimeError):
    """A server cannot be reached, refuses a request, or breaks off."""


class PromptTooLong(MalError, ValueError):
    """A prompt and the text to be written do not fit the context; the message holds both numbers."""


class DataError(MalError, ValueError):
    """A data row or a data file cannot be used."""


class MissingExtra(MalError, ImportError):
    """An optional part is not installed; the message holds the command that installs it."""


def require_extra(extra: str, *modules: str) -> None:
    """Raise `MissingExtra` with the install command if one of `modules` is absent.

    Looks the modules up without importing them, so that a guard costs nothing.
    """
    from importlib.util import find_spec

    absent = [name for name in modules if find_spec(name) is None]
    if absent:
        raise MissingExtra(
            f"{', '.join(absent)} not installed; this command needs the [{extra}] extra: "
            f"pip install 'metaaligner-lite[{extra}]'"
        )

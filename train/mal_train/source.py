"""Where records come from: a file, or a data set of the Hugging Face Hub by its id, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaaligner_lite.errors import DataError, FileProblem, require_extra
from metaaligner_lite.records import SUFFIXES, Record, read_records


def records_of(source: Path) -> Iterator[tuple[str, Record | DataError]]:
    """Each record with the place it stands at: of a file, or of owner/name[/CONFIG][:SPLIT] on the Hub.

    Without a split named, train is taken. Raises FileProblem if it cannot be read, MissingExtra without datasets.
    """
    yield from _hub(source) if is_hub_id(source) else read_records(source)


def is_hub_id(source: Path) -> bool:
    """Whether a source is the id of a data set rather than a file: two or three names, none of them there."""
    parts = source.parts
    suffix = Path(parts[-1].partition(":")[0]).suffix.lower() if parts else ""
    return (
        len(parts) in (2, 3)
        and not source.is_absolute()
        and not Path(parts[0]).exists()
        and suffix
        not in (
            *SUFFIXES,
            *(".gz", ".zst", ".xz", ".zip", ".bz2", ".txt", ".xlsx", ".arrow"),
        )
    )


def _hub(source: Path) -> Iterator[tuple[str, Record | DataError]]:
    require_extra("datasets", "datasets")
    import datasets

    text, _, split = source.as_posix().partition(":")
    owner, name, *config = text.split("/")
    try:
        found = datasets.load_dataset(f"{owner}/{name}", *config)
        splits = list(found) if isinstance(found, dict) else []
        if splits and (split or "train") not in splits and (split or len(splits) > 1):
            raise FileProblem(
                f"{text} has the splits {', '.join(splits)}; name one of them, such as {text}:{splits[0]}"
            )
        table = found[split or ("train" if "train" in splits else splits[0])] if splits else found
        for number, record in enumerate(table, 1):
            yield f"record {number}", record
    except FileProblem:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        NotImplementedError,
        datasets.exceptions.DatasetsError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileProblem(
            f"cannot load the data set {text}: {reason} (there is no file of that name either; HF_HUB_OFFLINE=1 takes "
            "what is in the cache)"
        ) from error

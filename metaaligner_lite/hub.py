"""owner/repo[:QUANT] -> a GGUF file of the Hugging Face Hub, from its cache where it is there already.

What is named and cached is opened without asking the Hub, so that a run needs no network; `hf cache rm` makes room for
a newer one. Of a model in several files the first is given; llama.cpp finds the others beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import FileProblem, require_extra

_DEFAULT = "Q4_K_M"
_ADAPTERS = "F16"
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4(?:_MOE)?))(?=[-.]|$)",
    re.IGNORECASE,
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_NO_MODEL = re.compile(r"mmproj|imatrix|vocab-only|-vocab$|^mtp-", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Variant:
    """A model of a repository: its quantization ("" if its name does not tell) and its files, in order."""

    quant: str
    files: tuple[str, ...]
    complete: bool = True

    @property
    def name(self) -> str:
        """What a user may name it by."""
        return self.quant or PurePosixPath(self.files[0]).stem


def variants(files: Iterable[str]) -> list[Variant]:
    """The models among a repository's files; parts 00001-of-0000N are one."""
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix.lower() == ".gguf" and not _NO_MODEL.search(path.stem):
            groups.setdefault(str(path.with_name(_PART.sub("", path.stem))), []).append(file)
    found = []
    for whole, parts in groups.items():
        last = _PART.search(PurePosixPath(parts[0]).stem)
        quants = _QUANT.findall(PurePosixPath(whole).name) or _QUANT.findall(PurePosixPath(whole).parent.name)
        quant = quants[-1].upper() if quants else ""
        found.append(Variant(quant, tuple(parts), last is None or len(parts) == int(last[2])))
    return found


def choose(found: list[Variant], quant: str, default: str) -> Variant | None:
    """The variant of a quantization; without one named, the default's or the nearest to it. None if there is none.

    Nearest is the one of the nearest number of bits, the larger of two.
    """
    wanted = (quant or default).upper()
    exact = [one for one in found if wanted in (one.quant, one.name.upper(), f"{one.name}.gguf".upper())]
    exact = exact or [one for one in found if one.quant == f"UD-{wanted}"]
    if exact or quant:
        return min(exact, key=lambda one: len(one.files[0]), default=None)
    told = [one for one in found if one.quant]
    if not told:
        return found[0] if len(found) == 1 else None
    return min(told, key=lambda one: (round(abs(_bits(one.quant) - _bits(wanted)), 3), -_bits(one.quant)))


def _bits(quant: str) -> float:
    """About how many bits a weight takes."""
    if kind := re.search(r"B?F(P)?(16|32)", quant):
        return float(kind[2])
    number = re.search(r"\d", quant)
    size = next((bits for end, bits in _SIZES.items() if quant.endswith(end)), 0.5)
    return float(number[0]) + size if number else 4.5


_SIZES = {
    "_XXS": 0.1,
    "_XS": 0.25,
    "_K_S": 0.6,
    "_K_M": 0.85,
    "_K_L": 0.95,
    "_K_XL": 0.97,
    "_K": 0.7,
    "_NL": 0.5,
    "_1": 0.7,
}


def fetch_gguf(
    repository: str, quant: str, what: str, say: Callable[[str], None] = lambda _: None, *, adapter: bool = False
) -> Path:
    """The file of a repository's model in a quantization (default: Q4_K_M or the nearest; F16 for an adapter).

    `say` gets a line where another than the default is taken, or the Hub cannot be asked. HF_HUB_OFFLINE, HF_HOME,
    HF_TOKEN and HF_ENDPOINT hold. What is fetched is checked against its SHA-256. Raises MissingExtra without
    huggingface_hub, FileProblem if there is no such repository, no such model in it, or no way to it.
    """
    require_extra("hub", "huggingface_hub")
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    default = _ADAPTERS if adapter else _DEFAULT
    cached = _cached(repository, Path(constants.HF_HUB_CACHE))
    kept = [one for one in variants(cached) if one.complete]
    if (here := choose(kept, quant, default)) and (quant or here.quant == default):
        return cached[here.files[0]]
    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            files = huggingface_hub.HfApi().list_repo_files(repository)
        except GatedRepoError as error:
            terms = f"accept its terms at {constants.ENDPOINT}/{repository} and log in with `hf auth login`"
            raise FileProblem(f"{what}: {repository} is gated; {terms} (or set HF_TOKEN)") from error
        except RepositoryNotFoundError as error:
            hint = "is it spelled so? A private one needs `hf auth login` or HF_TOKEN"
            raise FileProblem(f"{what}: the Hub has no repository {repository}; {hint}") from error
        except (HfHubHTTPError, OSError, ValueError, _http_error()) as error:
            why = f"the Hub cannot be asked ({_line(error)})"
        else:
            found = _picked(repository, variants(files), quant, default, what, say)
            return _fetch(repository, found, cached, what)
    if here:
        _say_other(repository, here, quant, default, say)
        say(f"{repository}: taken from the cache, {why}")
        return cached[here.files[0]]
    has = f" (it holds {', '.join(one.name for one in kept)})" if kept else ""
    named = f"{repository}:{quant}" if quant else repository
    raise FileProblem(f"{what}: {named} is not in the local cache{has} and {why}; fetch it where there is a network")


def _picked(
    repository: str, found: list[Variant], quant: str, default: str, what: str, say: Callable[[str], None]
) -> Variant:
    if not found:
        convert = f"convert it: mal convert {repository} --q4_k_m"
        raise FileProblem(f"{what}: {repository} holds no GGUF file; look for one that does, or {convert}")
    names = ", ".join(dict.fromkeys(one.name for one in found))
    picked = choose(found, quant, default)
    if picked is None:
        asked = f"has no {quant}" if quant else "holds several models"
        raise FileProblem(f"{what}: {repository} {asked}; it has {names}: name one as {repository}:NAME")
    if not picked.complete:
        raise FileProblem(f"{what}: {repository} lacks parts of {picked.name}; it has {', '.join(picked.files)}")
    _say_other(repository, picked, quant, default, say)
    return picked


def _say_other(repository: str, picked: Variant, quant: str, default: str, say: Callable[[str], None]) -> None:
    if not quant and picked.quant != default:
        say(f"{repository} has no {default} here; taking {picked.name}")


def _fetch(repository: str, found: Variant, cached: dict[str, Path], what: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    paths = []
    for file in found.files:
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, file))
        except (HfHubHTTPError, OSError, ValueError, _http_error()) as error:
            raise FileProblem(f"{what}: {file} of {repository} cannot be fetched: {_line(error)}") from error
        if cached.get(file) != path:
            _verify(path, what)
        paths.append(path)
    return paths[0]


def _verify(path: Path, what: str) -> None:
    """Compare a fetched file with its SHA-256, which is the name of its blob."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    digest = hashlib.sha256()
    with blob.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise FileProblem(f"{what}: {path.name} arrived damaged (its SHA-256 is another); it was removed: run again")


def _cached(repository: str, cache: Path) -> dict[str, Path]:
    """The files of a repository's newest snapshot in the cache, by their names in the repository."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return {}
    snapshot = folder / "snapshots" / commit
    found = (Path(at) / name for at, _, names in os.walk(snapshot) for name in names)
    return {path.relative_to(snapshot).as_posix(): path for path in found if path.exists()}


def _http_error() -> type[Exception]:
    """What huggingface_hub's HTTP client raises where it cannot reach the Hub."""
    try:
        from httpx2 import HTTPError
    except ImportError:  # an older one stands on httpx, whose errors it turns into OSErrors in part
        return OSError
    return HTTPError


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]

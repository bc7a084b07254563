"""metaaligner-lite: edit the answers of any language model toward objectives named in plain words.

    from metaaligner_lite import Choice, align, open_pair

    with open_pair(Choice(policy="policy.gguf", aligner="aligner.gguf")) as pair:
        correction = align("My parcel is late.", "empathy,clarity", policy=pair.policy, aligner=pair.aligner)
    print(correction.text)

Importing the package does not load llama.cpp; opening an engine does.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .aalign import aalign
    from .align import Correction, align, align_each
    from .aligners import Aligner, EndpointAligner, GgufAligner
    from .best import BestOf
    from .endpoint import Endpoint, Server
    from .errors import (
        DataError,
        EndpointError,
        FileProblem,
        MalError,
        MissingExtra,
        ModelError,
        PromptTooLong,
        UsageError,
    )
    from .generation import Counts, Generation, Sampling
    from .llama.engine import Engine, open_engine
    from .manifest import Manifest
    from .objectives import Objective, load_catalogue, resolve
    from .pair import Choice, Pair, open_pair
    from .policies import Answer, EndpointPolicy, GgufPolicy, GivenAnswer, Policy
    from .prompts import Message

# Everything waits until it is used: `mal --help` needs none of it.
_PLACES = {
    ".align": "Correction align_each",
    ".aligners": "Aligner EndpointAligner GgufAligner",
    ".best": "BestOf",
    ".endpoint": "Endpoint Server",
    ".errors": "DataError EndpointError FileProblem MalError MissingExtra ModelError PromptTooLong UsageError",
    ".generation": "Counts Generation Sampling",
    ".llama.engine": "Engine open_engine",
    ".manifest": "Manifest",
    ".objectives": "Objective load_catalogue resolve",
    ".pair": "Choice Pair open_pair",
    ".policies": "Answer EndpointPolicy GgufPolicy GivenAnswer Policy",
    ".prompts": "Message",
}
_LATE = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 (grouped as a reader meets them)
    "align", "align_each", "aalign", "Correction", "Choice", "Pair", "open_pair", "Aligner", "GgufAligner", "BestOf",
    "GgufPolicy", "GivenAnswer", "Policy", "Answer", "Message",
    "Endpoint", "Server", "EndpointPolicy", "EndpointAligner",
    "open_engine", "Engine", "Sampling", "Generation", "Counts",
    "Objective", "resolve", "load_catalogue", "Manifest",
    "MalError", "UsageError", "FileProblem", "ModelError", "EndpointError",
    "PromptTooLong", "DataError", "MissingExtra",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _function(name: str) -> property:
    """A function that has its module's name: Python would put the module in its place once that is imported."""
    return property(lambda _: getattr(import_module(f".{name}", __name__), name), lambda _, module: None)


class _Package(ModuleType):
    align = _function("align")
    aalign = _function("aalign")


sys.modules[__name__].__class__ = _Package

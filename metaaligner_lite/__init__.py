"""metaaligner-lite: edit the answers of any language model toward objectives named in plain words.

    from metaaligner_lite import GgufAligner, GgufPolicy, align, open_engine

    with open_engine("policy.gguf") as policy, open_engine("aligner.gguf") as editor:
        correction = align("My parcel is late.", "empathy,clarity",
                           policy=GgufPolicy(policy), aligner=GgufAligner(editor))
    print(correction.text)

Importing the package does not load llama.cpp; opening an engine does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .align import Correction, align, align_each
from .aligners import Aligner, EndpointAligner, GgufAligner
from .best import BestOf
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
from .manifest import Manifest
from .objectives import Objective, load_catalogue, resolve
from .policies import Answer, EndpointPolicy, GgufPolicy, GivenAnswer, Policy
from .prompts import Message

if TYPE_CHECKING:
    from .endpoint import Endpoint, Server
    from .llama.engine import Engine, open_engine

# These load llama.cpp, or what speaks HTTP, so they wait until they are used.
_LATE = {
    "Endpoint": ".endpoint",
    "Server": ".endpoint",
    "Engine": ".llama.engine",
    "open_engine": ".llama.engine",
}

__all__ = [  # noqa: RUF022 (grouped as a reader meets them)
    "align", "align_each", "Correction", "Aligner", "GgufAligner", "BestOf",
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

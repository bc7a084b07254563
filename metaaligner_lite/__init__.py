"""metaaligner-lite: edit the answers of any language model toward objectives named in plain words.

    from metaaligner_lite import Choice, align, open_pair

    with open_pair(Choice(policy="policy.gguf", aligner="aligner.gguf")) as pair:
        correction = align("My parcel is late.", "empathy,clarity", policy=pair.policy, aligner=pair.aligner)
    print(correction.text)

Importing the package does not load llama.cpp; opening an engine does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .aalign import aalign
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
    from .pair import Choice, Pair, open_pair

# These load llama.cpp, or what speaks HTTP, so they wait until they are used.
_LATE = {
    "Endpoint": ".endpoint",
    "Server": ".endpoint",
    "Engine": ".llama.engine",
    "open_engine": ".llama.engine",
    "Choice": ".pair",
    "Pair": ".pair",
    "open_pair": ".pair",
}

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

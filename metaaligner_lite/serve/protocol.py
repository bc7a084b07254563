"""OpenAI's requests, checked: JSON in, an Order out, or Refused with what OpenAI's own server would say.

What is known is checked strictly, what is unknown is accepted: clients send keys of their own. Inside `metaaligner`,
which only people write, an unknown key is a mistake, and refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..chats import read_chat
from ..errors import EndpointError, MalError, PromptTooLong
from ..generation import Sampling, Settings
from ..objectives import Objective, resolve
from ..prompts import Message
from .sets import Sets


class Refused(MalError):
    """A request that is answered with an error, in OpenAI's words and numbers."""

    def __init__(
        self, status: int, message: str, *, kind: str = "", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.headers: dict[str, str] = {}

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def refused(error: MalError) -> Refused:
    """What a client is told of an error of ours."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, PromptTooLong):
        return Refused(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, EndpointError):
        return Refused(502, str(error), code="upstream_error")
    status = 400 if error.exit_code == 2 or isinstance(error, ValueError) else 500
    return Refused(status, str(error))


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Part(_Open):
    """A part of a turn's content; only text can be read."""

    type: str
    text: str | None = None


class Turn(_Open):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class StreamOptions(_Open):
    """What a stream tells besides its text."""

    include_usage: bool | None = None


class ResponseFormat(_Open):
    """Free text is the only one."""

    type: Literal["text"]


class Prediction(_Open):
    """A text that the answer will probably repeat in parts."""

    type: Literal["content"]
    content: str | list[Part]


class NewObjective(_Closed):
    """An objective that is defined in the request itself."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    description: Annotated[str, Field(min_length=1, max_length=2000)]


class Wanted(_Closed):
    """What is this server's own: what the answer is edited toward, and how."""

    objectives: str | Annotated[list[str | NewObjective], Field(min_length=1, max_length=16)] | None = None
    gate: bool | None = None
    show: Literal["aligned", "both"] | None = None
    rounds: Annotated[int, Field(ge=1, le=8)] | None = None
    edit_temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    answer: Annotated[str, Field(min_length=1)] | None = None  # to be edited in place of one that the policy writes


_Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(max_length=16)]


class _Request(_Open):
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: Annotated[str, Field(max_length=500)] | _Stops | None = None
    n: Literal[1] | None = None
    user: str | None = None
    metaaligner: Wanted | None = None


class ChatRequest(_Request):
    """A body for /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    logprobs: Literal[False] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class CompletionRequest(_Request):
    """A body for /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None
    logprobs: Literal[0] | None = None


_REFUSED = {
    "response_format": 'only free text is written; leave it out, or send {"type": "text"}',
    "n": "one answer is written for each request; send 1, or several requests",
    "logprobs": "no likelihoods are told; leave it out",
    "tool_choice": 'no tools are called; send "none" or "auto"',
    "echo": "the prompt is not repeated; leave it out",
    "suffix": "nothing is written into the middle of a text; leave it out",
    "best_of": "one answer is written for each request; send 1",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What a request comes to: a query with the turns before it, and how it is to be answered.

    `objectives` are what the answer is edited toward; none, and the policy's answer is the answer. With an `answer` of
    the client's the policy is not asked. `chat` is off where the query is a text to go on with. `show_both` streams
    the policy's answer, too. The temperature of `settings` is the policy's.
    """

    query: str
    history: tuple[Message, ...] = ()
    objectives: tuple[Objective, ...] = ()
    settings: Settings = field(default_factory=Settings)
    gate: bool = False
    rounds: int = 1
    edit_temperature: float = 0.0
    show_both: bool = False
    chat: bool = True
    stream: bool = False
    include_usage: bool = False
    model: str = ""
    client: str = ""
    notes: tuple[str, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a request says nothing."""

    sets: Sets
    catalogue: Mapping[str, Objective]
    sampling: Sampling
    chosen: frozenset[str] = frozenset()
    max_tokens: int | None = None
    most_messages: int = 2000
    edit_temperature: float = 0.0


def chat_order(body: bytes, defaults: Defaults, client: str = "") -> Order:
    """The order in a body for /v1/chat/completions. Raises Refused."""
    request = _parsed(ChatRequest, body)
    if len(request.messages) > defaults.most_messages:
        raise Refused(
            400,
            f"there are {len(request.messages):,} messages; at most {defaults.most_messages:,} are read",
            param="messages",
        )
    try:
        chat = read_chat([turn.model_dump(exclude_none=True) for turn in request.messages], "the request")
    except MalError as error:
        raise Refused(400, str(error), param="messages") from error
    *before, last = chat.turns or (Message("", ""),)
    if last.role != "user":
        raise Refused(400, "the last message with text must be the user's: it is what is answered", param="messages")
    most = request.max_completion_tokens or request.max_tokens
    copies = (_text(request.prediction.content),) if request.prediction else ()
    return _order(request, last.content, tuple(before), defaults, client, most, copies, chat.notes, chat=True)


def completion_order(body: bytes, defaults: Defaults, client: str = "") -> Order:
    """The order in a body for /v1/completions. Raises Refused."""
    request = _parsed(CompletionRequest, body)
    prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    if not prompt.strip():
        raise Refused(400, "the prompt is empty; give a text to go on with", param="prompt")
    return _order(request, prompt, (), defaults, client, request.max_tokens, (), (), chat=False)


def _order(
    request: _Request,
    query: str,
    history: tuple[Message, ...],
    defaults: Defaults,
    client: str,
    max_tokens: int | None,
    copies: tuple[str, ...],
    notes: tuple[str, ...],
    *,
    chat: bool,
) -> Order:
    model = request.model or "aligned"
    if (chosen := defaults.sets.find(model, defaults.catalogue)) is None:
        known = ", ".join(defaults.sets.ids)
        raise Refused(404, f"there is no model {model!r}; there are: {known}", param="model", code="model_not_found")
    own = request.metaaligner or Wanted()
    objectives = chosen.objectives
    if own.objectives is not None:
        if not objectives:
            raise Refused(
                400,
                f"what the model {model!r} writes is not edited; leave out the objectives, or name another model",
                param="metaaligner.objectives",
            )
        objectives = _objectives(own.objectives, defaults.catalogue)
    if own.answer is not None and not (objectives and own.answer.strip()):
        why = f"what the model {model!r} writes is not edited" if not objectives else "it is empty"
        raise Refused(400, f"the answer to be edited: {why}; leave it out", param="metaaligner.answer")
    sampling, named = _sampling(request, defaults)
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Order(
        query,
        history,
        objectives,
        Settings(sampling, named, max_tokens or defaults.max_tokens, tuple(filter(None, stops)), copies),
        chosen.gate if own.gate is None else own.gate,
        own.rounds or chosen.rounds,
        defaults.edit_temperature if own.edit_temperature is None else own.edit_temperature,
        (own.show or chosen.show) == "both",
        chat,
        bool(request.stream),
        bool(request.stream_options and request.stream_options.include_usage),
        model,
        request.user or client,
        notes,
        own.answer,
    )


def _objectives(asked: str | Sequence[str | NewObjective], catalogue: Mapping[str, Objective]) -> tuple[Objective, ...]:
    wanted: str | list[str | Objective]
    if isinstance(asked, str):
        wanted = asked
    else:
        wanted = [one if isinstance(one, str) else Objective(one.name, one.description) for one in asked]
    try:
        return tuple(resolve(wanted, catalogue))
    except MalError as error:
        raise Refused(400, str(error), param="metaaligner.objectives") from error


def _sampling(request: _Request, defaults: Defaults) -> tuple[Sampling, frozenset[str]]:
    """How tokens are chosen, and which parts of that the request or the server's owner named."""
    base = defaults.sampling
    named = {name: value for name in ("top_p", "top_k", "min_p") if (value := getattr(request, name)) is not None}
    settings: dict[str, Any] = dict(named)
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    if request.seed is not None:
        settings["seed"] = request.seed % 2**32
    values = {name: getattr(base, name) for name in Sampling.__slots__} | settings
    return Sampling(**values), defaults.chosen | set(named)


def _text(content: str | list[Part]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text or "" for part in content)


R = TypeVar("R", bound=_Request)


def _parsed(kind: type[R], body: bytes) -> R:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _told(error) from error


def _told(error: ValidationError) -> Refused:
    """The first thing that is wrong, under the name that the client gave it."""
    first, *_ = error.errors(include_url=False, include_input=False)
    path = [part for part in first["loc"] if not _of_a_union(part)]
    param = ".".join(map(str, path)) or None
    message: str = first["msg"]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {first.get('ctx', {}).get('error', message)}")
    if why := _REFUSED.get(str(path[0]) if path else ""):
        return Refused(400, f"{path[0]}: {why}", param=str(path[0]), code="unsupported_parameter")
    if first["type"] == "extra_forbidden":
        expected = Wanted.model_fields if len(path) == 2 else NewObjective.model_fields
        inside = ".".join(map(str, path[:-1]))
        return Refused(400, f"unknown key {path[-1]!r} in {inside}; expected {', '.join(expected)}", param=param)
    return Refused(400, f"{param}: {message}" if param else f"the body: {message}", param=param)


def _of_a_union(part: int | str) -> bool:
    """Whether a part of pydantic's path names a branch of a union, rather than something of the request's."""
    return isinstance(part, str) and (
        part in ("str", "Part", "NewObjective") or part.startswith(("list[", "constrained-", "function-", "literal["))
    )

"""The server's description of itself (OpenAPI 3.1): what it takes is what protocol.py checks."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from .. import __version__
from .protocol import ChatRequest, CompletionRequest

_ERRORS = {
    400: "What is wrong with the request, and where",
    401: "The key is missing or wrong",
    403: "The Host or the Origin is not allowed",
    404: "There is no such model",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "The queue is full; Retry-After says when to try again",
    500: "The server failed",
    502: "A model's own server failed",
    503: "The server is shutting down, or the time limit was reached",
}
_WRITING = (*_ERRORS,)
_READING = (401, 403)

_STRING: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}


def description(*, metrics: bool = False) -> dict[str, Any]:
    """The description; with the metrics, if they are served."""
    _, schemas = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template="#/components/schemas/{model}"
    )
    listed = {"type": "array", "items": _ref("Model")}
    objective = _object(name=_STRING, description=_STRING, known={"type": "boolean"})
    paths = {
        "/": _get("The page", "text/html", _STRING, ()),
        "/health": _get("Whether it works", "application/json", _ref("Health"), (403,), also={503: _ref("Health")}),
        "/openapi.json": _get("This description", "application/json", {"type": "object"}, _READING),
        "/v1/models": _get("The models", "application/json", _object(object=_STRING, data=listed), _READING),
        "/v1/models/{model}": {
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": _STRING}],
            **_get("One model", "application/json", _ref("Model"), (*_READING, 404)),
        },
        "/v1/objectives": _get(
            "What an answer may be edited toward",
            "application/json",
            _object(data={"type": "array", "items": objective}),
            _READING,
        ),
        "/v1/chat/completions": _post("Answer a conversation", "ChatRequest", "message"),
        "/v1/completions": _post("Go on with a text", "CompletionRequest", "text"),
    }
    if metrics:
        paths["/metrics"] = _get("What Prometheus reads", "text/plain", _STRING, _READING)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "metaaligner-lite",
            "version": __version__,
            "description": "A model whose answers are edited toward objectives, behind OpenAI's protocol.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], **_answers()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _answers() -> dict[str, Any]:
    error = _object(message=_STRING, type=_STRING, param=_or_null("string"), code=_or_null("string"))
    stage = _object(read=_COUNT, reused=_COUNT, written=_COUNT, copied=_COUNT, seconds={"type": "number"})
    told = _object(
        objectives={"type": "array", "items": _STRING},
        policy_text=_STRING,
        aligned={"type": "boolean"},
        failure=_STRING,
        preference=_or_null("number"),
        stages=_object(policy=stage, edit=stage),
        notes={"type": "array", "items": _STRING},
    )
    usage = _object(
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        prompt_tokens_details=_object(cached_tokens=_COUNT),
        completion_tokens_details=_object(
            reasoning_tokens=_COUNT, accepted_prediction_tokens=_COUNT, rejected_prediction_tokens=_COUNT
        ),
    )
    answer = _object(
        id=_STRING,
        object=_STRING,
        created=_COUNT,
        model=_STRING,
        choices={"type": "array", "items": {"type": "object"}, "minItems": 1},
        usage=usage,
        metaaligner=told,
    )
    return {
        "Error": _object(error=error),
        "Answer": answer,
        "Model": _object(id=_STRING, object=_STRING, created=_COUNT, owned_by=_STRING),
        "Health": _object(
            status={"type": "string", "enum": ["ready", "busy", "stuck"]}, running=_COUNT, waiting=_COUNT
        ),
    }


def _get(
    told: str, kind: str, schema: dict[str, Any], errors: tuple[int, ...], also: dict[int, Any] | None = None
) -> dict[str, Any]:
    found = {200: schema, **(also or {})}
    responses = {str(status): {"description": told, "content": {kind: {"schema": it}}} for status, it in found.items()}
    return {"get": {"summary": told, "responses": {**responses, **_refusals(errors)}}}


def _post(told: str, body: str, where: str) -> dict[str, Any]:
    answer = {
        "description": f"The text, in choices[0].{where}; in events with `stream`",
        "content": {
            "application/json": {"schema": _ref("Answer")},
            "text/event-stream": {},  # OpenAPI 3.1 has no form for the events of a stream
        },
    }
    return {
        "post": {
            "summary": told,
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
            "responses": {"200": answer, **_refusals(_WRITING)},
        }
    }


def _refusals(errors: tuple[int, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in errors}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _or_null(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}

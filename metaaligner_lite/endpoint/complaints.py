"""What servers say that went wrong: each program has its own form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_SHOWN = 10  # models that an error names


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a server says of an error."""

    message: str
    code: str = ""
    param: str = ""


def complaint_of(text: str, kind: str) -> Complaint:
    """What the body of a refused request says; `kind` is its content type."""
    try:
        return complaint_in(json.loads(text))
    except ValueError:
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
        return Complaint(short(title[1] if title else "" if "html" in kind else text))


def complaint_in(raw: Any) -> Complaint:
    """{"error": {...}}, {"error": "..."}, {"detail": ...} of FastAPI, {"message": ...}: each program has its own."""
    if isinstance(raw, list) and raw:
        raw = raw[0]
    if not isinstance(raw, dict):
        return Complaint(short(str(raw)))
    error = raw.get("error") or raw.get("detail") or raw
    if isinstance(error, list) and error:  # FastAPI names each field that it did not like
        first = error[0] if isinstance(error[0], dict) else {"msg": error[0]}
        place = first.get("loc")
        param = str(place[-1]) if isinstance(place, list) and place else ""
        return Complaint(short(f"{param}: {first.get('msg', '')}"), "", param)
    if not isinstance(error, dict):
        return Complaint(short(str(error)))
    names = [str(error[name]) for name in ("code", "type", "status_code") if error.get(name) is not None]
    told = [name for name in names if name in _CODES] + [name for name in names if name.isdigit()] + names
    code = told[0] if told else ""
    message = error.get("message") or error.get("msg") or error.get("detail") or ", ".join(names)
    return Complaint(short(str(message)), code, str(error.get("param") or ""))


_CODES = ("context_length_exceeded", "exceed_context_size_error", "model_not_found", "insufficient_quota")


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: a number, or a date as HTTP writes it."""
    if milliseconds := headers.get("retry-after-ms"):
        with suppress(ValueError):
            return max(0.0, float(milliseconds) / 1000)
    asked = headers.get("retry-after", "").strip()
    if not asked:
        return None
    with suppress(ValueError):
        return max(0.0, float(asked))
    try:
        date = parsedate_to_datetime(asked)
    except (ValueError, TypeError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def listed(names: Sequence[str]) -> str:
    """The models that a server has, as an error names them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def short(text: str, most: int = 300) -> str:
    """A server's words on one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"

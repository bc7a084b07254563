"""Where chat templates run: transformers' dialect of Jinja, in a sandbox with bounds.

A template is a program from a file people download. It reaches nothing outside (jinja2's sandbox), and it ends: every
loop, call and macro is a step, steps and seconds are counted, and no text or list grows beyond a size. All bounds are
far from what a template needs (bench/LOG.md has steps of a hundred of them).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateRuntimeError, Undefined, nodes, pass_eval_context
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, do_join, do_replace
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 1_000_000
SECONDS = 10.0  # of the processor's time, so that a busy machine stops no sound template
LARGEST = 4_000_000  # characters or items of one value
WRITTEN = 64_000_000  # characters that one rendering writes in all
_SOURCE = 1_000_000
_BITS = 4096  # of a whole number
_WIDTH = 100

# What makes much of little, and no chat template needs.
_NO_FILTERS = ("batch", "center", "filesizeformat", "format", "pprint", "slice", "sum", "urlize", "wordwrap", "xmlattr")
_NO_METHODS = {"center", "expandtabs", "ljust", "rjust", "translate", "zfill"}
# A width of thousands, or one that is computed, in a printf pattern and in one of str.format.
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*(\d{4}|\{)")


class BoundExceeded(TemplateRuntimeError):
    """A template that does not end, or makes too much."""


class _Budget:
    """What a rendering may still spend."""

    def __init__(self) -> None:
        self._steps, self._text, self._until = STEPS, WRITTEN, time.thread_time() + SECONDS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise BoundExceeded(f"it takes more than {STEPS:,} steps")
        if time.thread_time() > self._until:
            raise BoundExceeded(f"it takes more than {SECONDS:.0f} seconds")

    def write(self, characters: int) -> None:
        self._text -= characters
        if self._text < 0:
            raise BoundExceeded(f"it writes more than {WRITTEN:,} characters")


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


def compiled(source: str) -> Template:
    """A template, ready to render. Raises whatever jinja2 or Python's compiler raise for a broken one."""
    if len(source) > _SOURCE:
        raise TemplateError(f"it has {len(source):,} characters, more than the {_SOURCE:,} that any needs")
    return _Environment().from_string(source)


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises BoundExceeded, or whatever the template does."""
    token = _budget.set(_Budget())
    try:
        return "".join(template.generate(variables))
    finally:
        _budget.reset(token)


class _Generation(Extension):
    """{% generation %} marks what an assistant wrote, for training; here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Count(NodeTransformer):
    """Puts a step at the head of each loop and macro, and lets ~ ask for room."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", *node.nodes).set_lineno(node.lineno)

    def _counted(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        plain = sum(len(data.data) for part in node.body for data in _own_text(part))
        self.generic_visit(node)
        step = nodes.ExprStmt(_call("step", nodes.Const(plain)))
        node.body = [step.set_lineno(node.lineno), *node.body]
        return node


def _own_text(node: nodes.Node) -> list[nodes.TemplateData]:
    """The literal text below a node, but for what an inner loop or macro counts itself."""
    if isinstance(node, nodes.TemplateData):
        return [node]
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
        return []
    return [data for child in node.iter_child_nodes() for data in _own_text(child)]


def _call(method: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(arguments), [], None, None)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=_finalize
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        self.filters.update(
            tojson=_tojson, from_json=json.loads, join=_join, replace=_replace, indent=_indent, string=_string
        )
        self.globals.pop("lipsum")
        self.globals.update(raise_exception=_refuse, strftime_now=_now)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        counted: nodes.Template = _Count().visit(tree)
        return counted

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if budget := _budget.get():
            budget.step()
        if obj is _Environment.step:
            return obj(*args)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "join" and args:
            args = (_few(args[0]), *args[1:])
            _fits(_weight(args[0]) + len(owner) * len(args[0]))
        elif isinstance(owner, str) and name == "replace":
            _room_to_replace(owner, *args)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        a, b = (len(side) if isinstance(side, str | list | tuple) else None for side in (left, right))
        if operator == "+" and a is not None and b is not None:
            _fits(a + b)
        elif operator == "*" and (a is not None or b is not None):
            times = right if a is not None else left
            _fits((a or b or 0) * times if isinstance(times, int) else 0)
        elif operator == "%" and isinstance(left, str):
            if _WIDE_PERCENT.search(left):
                raise BoundExceeded("it formats a text to a width of thousands")
            _fits(_weight(right))
        elif operator in "**" and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _BITS:
                raise BoundExceeded("it computes a number of thousands of digits")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _NO_METHODS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        owner = getattr(value, "__self__", None)
        if (
            isinstance(owner, str)
            and getattr(value, "__name__", "") in ("format", "format_map")
            and _WIDE_BRACES.search(owner)
        ):
            raise SecurityError("it formats a text to a width of thousands")
        return super().wrap_str_format(value)

    @staticmethod
    def step(characters: int) -> None:
        """What a loop or macro does first: the call itself is the step."""
        if budget := _budget.get():
            budget.write(characters)

    @staticmethod
    def joined(*parts: Any) -> str:
        """What ~ does."""
        texts = [str(_whole(part)) for part in parts]
        _fits(sum(map(len, texts)))
        return "".join(texts)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    if len(pattern) > 1000 or _WIDE_PERCENT.search(pattern):
        raise BoundExceeded("it asks for a date of thousands of characters")
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers': HTML is not escaped."""
    _narrow(indent)
    return json.dumps(
        _whole(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@pass_eval_context
def _join(context: EvalContext, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = _few(value)
    _fits(_weight(items) + len(d) * len(items))
    return str(do_join(context, items, d, attribute))


@pass_eval_context
def _replace(context: EvalContext, s: str, old: str, new: str, count: int | None = None) -> str:
    _room_to_replace(str(s), old, new)
    return str(do_replace(context, s, old, new, count))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _narrow(width)
    _fits((str(s).count("\n") + 1) * _WIDTH + len(s))
    return do_indent(s, width, first, blank)


def _string(value: Any) -> str:
    return str(_whole(value))


def _narrow(width: Any) -> None:
    if (isinstance(width, int) and width > _WIDTH) or (isinstance(width, str) and len(width) > _WIDTH):
        raise BoundExceeded(f"it indents by more than {_WIDTH} characters")


def _room_to_replace(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    _fits(len(text) + text.count(str(old)) * len(str(new)))


def _finalize(value: Any) -> Any:
    """What an expression writes, once it is known to be no giant."""
    _whole(value)
    if budget := _budget.get():
        budget.write(_weight(value))
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        _fits(_weight(value))
    elif not isinstance(value, str | int | float | Undefined | None) and not callable(value):
        _fits(len(str(value)))
    return value


def _few(items: Any) -> list[Any]:
    found = []
    for item in items:
        found.append(item)
        _fits(len(found))
    return found


def _weight(value: Any) -> int:
    """The size of a value in characters, its items counted as often as they would be written, ten for each."""
    total, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        total += len(one) if isinstance(one, str) else 10
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
        _fits(total + 10 * len(waiting))
    return total


def _fits(size: int) -> None:
    if size > LARGEST:
        raise BoundExceeded(f"it makes a value of more than {LARGEST:,} characters or items")

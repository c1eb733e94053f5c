"""Jinja for a chat template that came with a model file and may be hostile."""

import datetime
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ptmo_secure.errors import ModelFormatError

TEMPLATE_KEY = "tokenizer.chat_template"
_MAX_STEPS = 200_000  # of one rendering: loop turns, calls, filters
_MAX_NUMBER = 1 << 20  # given to `**`, a call or a filter, or elements that `*` makes
_MAX_EXPONENT = 64


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up (utils/chat_template_utils.py), with bounds."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, source: str) -> None:
        # No escaping: prompts are no HTML. Not optimized: no constant folding while it loads.
        loops = ["jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=loops, optimized=False)
        self.source, self.steps = source, 0
        self.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
        self.filters = {name: self._bounded(run) for name, run in self.filters.items()}
        self.filters["counted"] = self._counted
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def error(self, what: str) -> ModelFormatError:
        """Return the error that names the file and what its template did."""
        return ModelFormatError(f"{self.source}: {TEMPLATE_KEY}: {what}")

    def _step(self, *arguments: object) -> None:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise self.error("runs without end")
        if any(isinstance(value, int) and abs(value) > _MAX_NUMBER for value in arguments):
            raise self.error("a number is too large")

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._step(*args[1:], *kwargs.values())
            return function(*args, **kwargs)

        return run

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._step(*args, *kwargs.values())
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sides = (abs(x) if isinstance(x, int | float) else len(x) for x in (left, right))
        power = abs(right) if operator == "**" else 0
        if power > _MAX_EXPONENT or math.prod(max(1, side) for side in sides) > _MAX_NUMBER:
            raise self.error(f"{operator} makes too much")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)

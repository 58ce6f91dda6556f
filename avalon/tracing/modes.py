"""The modes that a thread records in: gradients on or off, op by op, values forbidden.

Comes in: context managers and decorators that users write. Goes out: `modes`, one object per
thread, that recording reads. Guaranteed: leaving a context puts back what was there before, also
when an exception leaves it, and no thread sees another one's modes.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Modes(threading.local):
    """One thread's modes; `modes.__dict__` has them all, to compare with what they were.

    Attributes:
        grad: record gradient history.
        inference: results are inference tensors, which never get a history.
        eager: run every call as soon as it is recorded.
        replay: not None while a step is recorded for replay; then the message that says why a
            tensor's value cannot be asked for.
        layers: recorded calls note the layer that they are made in.
        watch: called with recorded work and its results before anyone sees them; an error that it
            raises is the work's.
        body: not None while the body of a loop is recorded; it is told which tensors from outside
            the body reads.
    """

    def __init__(self) -> None:
        self.grad = True
        self.inference = False
        self.eager = False
        self.replay: str | None = None
        self.layers = False
        self.watch: Callable[[Any, Any], None] | None = None
        self.body: Any = None


modes = Modes()


class Scope:
    """A context manager that is a decorator too, for functions and generators."""

    def __init__(self, **wanted: Any) -> None:
        self._wanted = wanted
        self._before: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._before.append({name: getattr(modes, name) for name in self._wanted})
        for name, value in self._wanted.items():
            setattr(modes, name, value)
        return self

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.pop().items():
            setattr(modes, name, value)

    def _fresh(self) -> Scope:
        return Scope(**self._wanted)

    def __call__(self, function: Function) -> Function:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*arguments: Any, **named: Any) -> Any:
                with self._fresh():
                    generator = function(*arguments, **named)
                while True:
                    try:
                        with self._fresh():
                            item = next(generator)
                    except StopIteration as stop:
                        return stop.value
                    yield item

            return generate  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with self._fresh():
                return function(*arguments, **named)

        return wrapped  # type: ignore[return-value]


def _scope(function: Callable[..., Any] | None, **wanted: Any) -> Any:
    scope = Scope(**wanted)
    return scope if function is None else scope(function)


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """Record no gradient history, as context manager or as decorator (`@no_grad` or `@no_grad()`).

    >>> import avalon as av
    >>> x = av.tensor([1.0, 2.0], requires_grad=True)
    >>> with av.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return _scope(function, grad=False)


def enable_grad(function: Callable[..., Any] | None = None) -> Any:
    """Record gradient history again inside `no_grad`."""
    return _scope(function, grad=True)


def inference_mode(function: Callable[..., Any] | bool | None = None) -> Any:
    """Like `no_grad`, for code whose results never take part in a gradient."""
    if isinstance(function, bool):
        return Scope(grad=False, inference=True) if function else Scope(inference=False)
    return _scope(function, grad=False, inference=True)


def eager(function: Callable[..., Any] | None = None) -> Any:
    """Run every operation when it is recorded, to debug: an error then comes from its own line."""
    return _scope(function, eager=True)


class set_grad_enabled(Scope):
    """Turn recording of gradient history on or off, at once, or for the length of a `with`
    block.
    """

    def __init__(self, enabled: bool) -> None:
        super().__init__(grad=bool(enabled))
        self._at_call = modes.grad
        modes.grad = bool(enabled)

    def __enter__(self) -> Self:
        self._before.append({"grad": self._at_call})
        modes.grad = self._wanted["grad"]
        return self

    def __call__(self, function: Function) -> Function:
        modes.grad = self._at_call
        return super().__call__(function)


def is_grad_enabled() -> bool:
    """True where operations record gradient history."""
    return modes.grad


def is_inference_mode_enabled() -> bool:
    """True inside `inference_mode`."""
    return modes.inference

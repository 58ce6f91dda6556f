"""Functions on functions: the gradient of any function of any structure.

Comes in: a function of tensors, structures and plain values. Goes out: its value and one gradient
per argument, shaped like the argument. Guaranteed: nothing of the arguments changes (no `.grad` is
touched); what is trained of a structure is what `struct.trained` says; gradients inside a function
whose gradient is taken are differentiable themselves.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from avalon import struct
from avalon.errors import AutogradError
from avalon.rebinding import rebindings
from avalon.tensor import Tensor, enable_grad, grad as gradients_of, no_grad
from avalon.tensor.core import wrap
from avalon.tracing.history import History
from avalon.tracing.modes import modes


class _Depth(threading.local):
    """How many gradients are being taken around each other on this thread."""

    value = 0


_depth = _Depth()


def grad(function: Callable[..., Any], *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
    """The value of `function(*arguments)` and its gradients with respect to the arguments.

    Args:
        function: returns a tensor with one element, or a tuple whose first item is one.
        arguments: tensors, structures (objects, dataclasses, dicts, lists, tuples), anything else.

    Returns:
        The value, and one gradient per argument: a tensor for a floating tensor; for a structure
        one of the same class with gradients in place of what is trained and None in place of its
        other tensors; None for everything else. What does not take part gets None.

    Raises:
        AutogradError: the value is not one number, or depends on nothing that is differentiable.

    >>> import avalon as av
    >>> loss, g = av.grad(lambda w, x: (w["a"] * x).sum(), {"a": av.tensor([1.0, 2.0])}, 3.0)
    >>> loss, g[0]["a"], g[1]
    (tensor(9.), tensor([3., 3.]), None)

    Source: the functional way of JAX,
    https://docs.jax.dev/en/latest/_autosummary/jax.value_and_grad.html
    """
    nested = _depth.value > 0 and modes.grad
    found = [struct.trained(argument) for argument in arguments]
    tensors = {id(tensor): tensor for one in found for tensor in one.values()}
    with _requiring(list(tensors.values())):
        with enable_grad():
            value = function(*arguments)
        loss = _loss_of(value)
        given = gradients_of(loss, list(tensors.values()), create_graph=nested, allow_unused=True)
    gradients = dict(zip(tensors, given, strict=True))
    shaped = tuple(
        _shaped(argument, one, gradients) for argument, one in zip(arguments, found, strict=True)
    )
    return value if nested else _detached(value), shaped


def value_and_grad(function: Callable[..., Any]) -> Callable[..., tuple[Any, tuple[Any, ...]]]:
    """A function that returns what `function` returns, and the gradients, as `grad` does.

    >>> import avalon as av
    >>> step = av.value_and_grad(lambda x: (x * x).sum())
    >>> step(av.tensor([1.0, 2.0]))
    (tensor(5.), (tensor([2., 4.]),))
    """

    @functools.wraps(function)
    def with_gradients(*arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        return grad(function, *arguments)

    return with_gradients


def vjp(
    function: Callable[..., Tensor], *arguments: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor | None, ...]]]:
    """The value of a function of tensors, and the function that carries a cotangent back.

    >>> import avalon as av
    >>> y, back = av.vjp(lambda x: x * x, av.tensor([1.0, 2.0]))
    >>> back(av.tensor([1.0, 10.0]))
    (tensor([ 2., 40.]),)
    """
    inputs = [wrap(x.value(), x._edge()).requires_grad_() for x in arguments]
    with enable_grad():
        value = function(*inputs)

    def back(cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return gradients_of(value, inputs, cotangent, retain_graph=True, allow_unused=True)

    return value.detach(), back


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Give a function a gradient of its own. It returns its value and a function from the value's
    cotangent to one cotangent per argument (None for an argument that has none).

    >>> import avalon as av
    >>> @av.custom_gradient
    ... def clipped(x):
    ...     return x * 1, lambda g: g.clamp(-1, 1)
    >>> x = av.tensor([1.0, 2.0], requires_grad=True)
    >>> (clipped(x) * av.tensor([5.0, 0.5])).sum().backward()
    >>> x.grad
    tensor([1.0000, 0.5000])
    """

    @functools.wraps(function)
    def with_gradient(*arguments: Any) -> Tensor:
        with no_grad():
            value, back = function(*arguments)
        places = [place for place, one in enumerate(arguments) if isinstance(one, Tensor)]
        edges = tuple(arguments[place]._edge() if modes.grad else None for place in places)
        if all(edge is None for edge in edges):
            return value

        def cotangents(g: Tensor) -> list[Tensor | None]:
            made = back(g)
            every = list(made) if isinstance(made, (tuple, list)) else [made]
            if len(every) == len(arguments):
                every = [every[place] for place in places]
            if len(every) != len(places):
                raise AutogradError(
                    f"[custom_gradient] the gradient of {function.__name__} gives {len(every)} "
                    f"cotangents for {len(arguments)} arguments"
                )
            return every

        name = getattr(function, "__name__", "custom_gradient")
        return wrap(value.value(), History.of_function(name, edges, value, cotangents))

    return with_gradient


def stop_gradient(struct_or_tensor: Any) -> Any:
    """The same values, through which no gradient flows.

    >>> import avalon as av
    >>> x = av.tensor(2.0, requires_grad=True)
    >>> (x * av.stop_gradient(x)).backward()
    >>> x.grad
    tensor(2.)
    """
    return struct.map_leaves(lambda tensor: tensor.detach(), struct_or_tensor)


@contextmanager
def _requiring(tensors: list[Tensor]) -> Iterator[None]:
    """Let the tensors require gradients for the length of the block."""
    quiet = [tensor for tensor in tensors if not tensor.requires_grad]
    for tensor in quiet:
        tensor._requires = True
    rebindings.count += 1
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1
        for tensor in quiet:
            tensor._requires = False
        rebindings.count += 1


def _loss_of(value: Any) -> Tensor:
    loss = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(loss, Tensor):
        raise AutogradError(
            "[grad] the function must return a tensor with one element (or a tuple that begins "
            f"with one), not {type(loss).__name__}"
        )
    if loss.numel() != 1:
        raise AutogradError(
            f"[grad] the function returned shape {loss.shape}; its gradient is defined for one "
            "element: reduce it first, for example with .mean()"
        )
    if not loss.requires_grad:
        raise AutogradError(
            "[grad] the value depends on no tensor that is differentiated. Pass the model or its "
            "tensors as arguments, and check that they are floating point and not detached"
        )
    return loss


def _shaped(argument: Any, trained: dict[str, Tensor], gradients: dict[int, Any]) -> Any:
    """The gradient of one argument, in its form."""
    if not trained:
        return None
    mine = {id(tensor) for tensor in trained.values()}
    return struct.map_leaves(
        lambda tensor: gradients[id(tensor)] if id(tensor) in mine else None, argument
    )


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return struct.map_leaves(lambda tensor: tensor.detach(), value)

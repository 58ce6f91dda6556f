"""Structure: calls that mark a value, move it to a device, or hand it to Python on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from avalon.dtype import DType
from avalon.errors import DeclarationError
from avalon.graph.primitive import Structure, primitive
from avalon.ops import placement_samples as samples


@primitive(Structure, samples=samples.copies)
def stop_gradient(x):
    """x itself, through which no gradient flows."""
    return x


@stop_gradient.shape
def _(x):
    return x.shape, x.dtype


stop_gradient.no_gradient("that is what it is for")
stop_gradient.lowering("copy")


@primitive(Structure, samples=samples.transfers)
def transfer(x, device, origin="cpu"):
    """x on another device; `origin` is the one it comes from, to which the gradient returns."""
    return x


@transfer.shape
def _(x, device, origin="cpu"):
    return x.shape, x.dtype


@transfer.gradient
def _(g, y, x, device, origin="cpu"):
    return transfer(g, device=origin, origin=device)


transfer.lowering("transfer")

_host_functions: dict[str, Callable[..., Any]] = {}


def register_host_function(key: str, function: Callable[..., Any]) -> None:
    """Make a function of NumPy arrays callable from graphs: `host_call(..., function_key=key)`."""
    known = _host_functions.setdefault(key, function)
    if known is not function:
        raise DeclarationError(f"[host_call] another function is registered as {key!r}")


def host_function(key: str) -> Callable[..., Any]:
    """The function registered as `key`."""
    try:
        return _host_functions[key]
    except KeyError:
        raise DeclarationError(
            f"[host_call] no function is registered as {key!r}; import the module that does it"
        ) from None


@primitive(Structure, samples=samples.host_calls)
def host_call(*xs, function_key, shapes, dtypes):
    """The result of a registered Python function of NumPy arrays (LAPACK, FFT, the user's own), of
    shape shapes[0] and dtype dtypes[0]. It runs on the host between native stretches.
    """
    found = np.asarray(host_function(function_key)(*xs))
    return found.astype(dtypes[0].reference).reshape(shapes[0])


@host_call.shape
def _(*xs, function_key: str, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[DType, ...]):
    if len(shapes) != 1 or len(dtypes) != 1:
        raise DeclarationError(f"[host_call] {function_key!r} must have one result")
    return shapes[0], dtypes[0]


host_call.no_gradient("Python functions need av.custom_gradient to be differentiated")
host_call.lowering("host_call")

# what the samples of host_call call
register_host_function("identity", lambda x: x)

"""Functions of 16-bit floats that are computed in float32 and rounded once, as PyTorch does it.

Comes in: a function of tensors. Goes out: the same function, whose 16-bit operands are widened
first and whose results are narrowed again. Guaranteed: sums of squares do not overflow float16, and
a formula of several steps is rounded once; other dtypes are left alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from avalon.dtype import DType
from avalon.functions.support import cast, dtypes
from avalon.tensor import Tensor
from avalon.tensor.composite import composite

Function = TypeVar("Function", bound=Callable[..., Any])


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (dtypes.float16, dtypes.bfloat16)


def _widened(value: Any) -> Any:
    return cast(value, dtypes.float32) if _is_narrow(value) else value


def _narrowed(value: Any, dtype: DType) -> Any:
    if isinstance(value, Tensor):
        return cast(value, dtype) if value.dtype is dtypes.float32 else value
    if isinstance(value, tuple):
        parts = [_narrowed(part, dtype) for part in value]
        return type(value)._make(parts) if hasattr(value, "_make") else tuple(parts)
    return value


def in_float32(function: Function) -> Function:
    """Compute `function` in float32 when its first operand is a 16-bit float."""

    @functools.wraps(function)
    def wrapper(input: Any, *arguments: Any, **named: Any) -> Any:
        if not _is_narrow(input):
            return function(input, *arguments, **named)
        result = function(
            _widened(input),
            *map(_widened, arguments),
            **{name: _widened(value) for name, value in named.items()},
        )
        return _narrowed(result, named.get("dtype") or input.dtype)

    return wrapper  # type: ignore[return-value]


def activation(function: Function) -> Function:
    """Like `in_float32`, for functions with an `inplace` argument, which is obeyed here."""
    place = list(inspect.signature(function).parameters).index("inplace")
    compute = composite(in_float32(function))

    @functools.wraps(function)
    def wrapper(input: Tensor, *arguments: Any, **named: Any) -> Tensor:
        result: Tensor = compute(input, *arguments, **named)
        given = arguments[place - 1] if len(arguments) >= place else named.get("inplace", False)
        return input.assign_(result) if given else result

    return wrapper  # type: ignore[return-value]

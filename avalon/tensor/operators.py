"""Python's operators on tensors: promotion and broadcasting, then one primitive.

Comes in: tensors, numbers, NumPy arrays. Goes out: tensors. Guaranteed: PyTorch's promotion
(numbers are weaker than zero-dimensional tensors, which are weaker than the others of their
category); a number of the user's is a run-time argument, so that another one does not compile
again; only exponents are structure, and one that is seen to vary at its line is an argument from
then on.

PyTorch's rules: https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.dtype import DType, category, promote
from avalon.errors import DTypeError
from avalon.graph.primitive import Primitive
from avalon.shape import Shape, broadcast_shapes
from avalon.tensor.core import Tensor, method
from avalon.tensor.creation import as_tensor, get_default_dtype, number_for
from avalon.tensor.layout import elementwise_strides, preserved_strides
from avalon.tracing.values import Value, record, user_line

_NUMBERS = (bool, int, float, complex, np.generic)
_OPERANDS = (Tensor, *_NUMBERS, np.ndarray)
_BOOLS = (dtypes.bool_, bool, np.dtype(bool))


def _weak_dtype(number: Any) -> DType:
    """The dtype of a Python number, which only its category makes strong."""
    if isinstance(number, (bool, np.bool_)):
        return dtypes.bool_
    if isinstance(number, (int, np.integer)):
        return dtypes.int64
    if isinstance(number, (float, np.floating)):
        return get_default_dtype()
    if isinstance(number, (complex, np.complexfloating)):
        wide = get_default_dtype() is dtypes.float64
        return dtypes.complex128 if wide else dtypes.complex64
    raise TypeError(f"[result_type] expected a tensor or a number, not {type(number).__name__}")


def _combine(stronger: DType | None, weaker: DType | None) -> DType | None:
    """The dtype of two groups of operands, of which the first has priority within a category."""
    if stronger is None or weaker is None:
        return weaker if stronger is None else stronger
    if category(stronger) >= category(weaker):
        return stronger
    if weaker.is_complex and stronger is dtypes.float64:
        return dtypes.complex128
    return weaker


def result_type(*operands: Any) -> DType:
    """The dtype in which an operation on these tensors and numbers is computed.

    >>> import avalon as av
    >>> av.result_type(av.tensor([1, 2]), 1.0)
    avalon.float32
    """
    groups: list[DType | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, Tensor):
            group, dtype = (0 if operand.shape else 1), operand.dtype
        elif isinstance(operand, np.ndarray):
            group, dtype = (0 if operand.ndim else 1), dtypes.from_numpy(operand.dtype)
        elif isinstance(operand, DType):
            group, dtype = 0, operand
        else:
            group, dtype = 2, _weak_dtype(operand)
        before = groups[group]
        groups[group] = dtype if before is None else promote(before, dtype)
    result = _combine(groups[0], _combine(groups[1], groups[2]))
    if result is None:
        raise TypeError("[result_type] needs at least one tensor or number")
    return result


def cast_to(x: Tensor, dtype: DType) -> Tensor:
    """`x` as `dtype`; `x` itself when it is that already."""
    if x.dtype is dtype:
        return x
    made: Tensor = ops.cast(x, dtype=dtype)
    if x._strides is not None:
        made._set_strides(preserved_strides(x))
    return made


def broadcast_to(x: Tensor, shape: Shape) -> Tensor:
    """`x` repeated to `shape`; `x` itself when it has that shape. Never an alias to write to."""
    return x if x.shape == shape else ops.broadcast(x, shape=shape)


def _typed(x: Any, dtype: DType, shape: Shape) -> Tensor:
    """An operand as a tensor of `dtype`; a number has the result's `shape` at once."""
    if type(x) in (float, int, bool) and not dtype.is_complex:
        value = Value.from_number(number_for(x, dtype), dtype)
        return Tensor._make(record(ops.broadcast, (value,), {"shape": shape}) if shape else value)
    return cast_to(x if isinstance(x, Tensor) else as_tensor(x, dtype=dtype), dtype)


def binary(primitive: Primitive, a: Any, b: Any, dtype: DType | None = None) -> Tensor:
    """`primitive` on two operands after promotion and broadcasting.

    Args:
        a, b: tensors, numbers or arrays whose shapes broadcast.
        dtype: the dtype to compute in, instead of the promoted one.

    Raises:
        ShapeError: the shapes do not broadcast.
        DTypeError: the primitive does not accept the promoted dtype.
    """
    if (
        dtype is None
        and isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.dtype is b.dtype
        and a.shape == b.shape
    ):
        result: Tensor = primitive(a, b)
        return result
    if dtype is None:
        dtype = a.dtype if _keeps_dtype(a, b) else result_type(a, b)
    first = getattr(a, "shape", ())
    second = getattr(b, "shape", ())
    shape = first if first == second else broadcast_shapes(primitive.name, first, second)
    operands = [_typed(a, dtype, shape), _typed(b, dtype, shape)]
    result = primitive(*[broadcast_to(operand, shape) for operand in operands])
    if len(shape) > 1:
        _lay_out(
            result, [x for x, given in zip(operands, (a, b), strict=True) if _is_tensor(given)]
        )
    return result


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def _keeps_dtype(a: Any, b: Any) -> bool:
    """True if `b` is plainly a number that `a`'s dtype is stronger than."""
    if not isinstance(a, Tensor):
        return False
    return (type(b) is float or type(b) is int) and a.dtype.kind == "float"


def _lay_out(result: Tensor, tensors: Sequence[Tensor]) -> None:
    """Take the strides that the operands have before they are broadcast."""
    if any(x._strides is not None for x in tensors):
        alike = len(tensors) == 2 and tensors[0].shape == tensors[1].shape
        result._set_strides(elementwise_strides(result.shape, tensors, alike))


def unary(primitive: Primitive, x: Any) -> Tensor:
    """`primitive` on one operand; a function of the reals turns integers into the default dtype."""
    tensor = x if isinstance(x, Tensor) else as_tensor(x)
    if primitive.accepts == "float" and not tensor.dtype.is_floating_point:
        tensor = cast_to(tensor, get_default_dtype())
    result: Tensor = primitive(tensor)
    return result


def is_operand(x: Any) -> bool:
    """True for what Python's operators accept beside a tensor."""
    return isinstance(x, _OPERANDS)


def _all_bool(a: Any, b: Any) -> bool:
    for x in (a, b):
        if type(x) is float or (isinstance(x, Tensor) and x.dtype is not dtypes.bool_):
            return False
    return result_type(a, b) is dtypes.bool_


def add(a: Any, b: Any) -> Tensor:
    """a + b; for bools, either."""
    return binary(ops.bit_or if _all_bool(a, b) else ops.add, a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b."""
    if getattr(a, "dtype", type(a)) in _BOOLS or getattr(b, "dtype", type(b)) in _BOOLS:
        raise DTypeError(
            "[sub] Subtraction, the `-` operator, with a bool tensor is not supported. If you are "
            "trying to invert a mask, use the `~` or `logical_not()` operator instead; to count, "
            "convert it with .int()."
        )
    return binary(ops.subtract, a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b; for bools, both."""
    return binary(ops.bit_and if _all_bool(a, b) else ops.multiply, a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b; integers and bools become the default dtype."""
    dtype = result_type(a, b)
    if dtype.kind not in ("float", "complex"):
        dtype = get_default_dtype()
    return binary(ops.divide, a, b, dtype)


def _refuse_zero(operation: str, dtype: DType, divisor: Any) -> None:
    """An integer divisor that is known is checked at the user's line."""
    if dtype.is_floating_point:
        return
    if isinstance(divisor, Tensor):
        value = divisor._cell.value
        if divisor._moves or divisor._cell.memory is not None or not value.known:
            return
        zero = bool((value.host() == 0).any())
    else:
        zero = bool(np.any(np.equal(divisor, 0)))
    if zero:
        raise ZeroDivision(f"[{operation}] ZeroDivisionError: an integer is divided by zero")


class ZeroDivision(RuntimeError, ZeroDivisionError):
    """An integer was divided by zero. PyTorch raises RuntimeError, Python ZeroDivisionError."""


def floor_divide(a: Any, b: Any) -> Tensor:
    """a // b, rounded down."""
    dtype = result_type(a, b)
    _refuse_zero("floor_divide", dtype, b)
    return binary(ops.floor_divide, a, b)


def remainder(a: Any, b: Any) -> Tensor:
    """a % b, with the sign of b."""
    dtype = result_type(a, b)
    _refuse_zero("remainder", dtype, b)
    return binary(ops.remainder, a, b)


_exponents: dict[Any, Any] = {}  # the exponent seen at each line of the user's; None once it varied


def power(a: Any, b: Any) -> Tensor:
    """a ** b. Small constant exponents are products, roots and quotients, as in PyTorch."""
    dtype = result_type(a, b)
    if not isinstance(a, Tensor) or not isinstance(b, (int, float)) or isinstance(b, bool):
        return (
            binary(ops.bit_and, a, ~as_tensor(b))
            if dtype is dtypes.bool_
            else binary(ops.power, a, b)
        )
    if dtype.is_integer and b < 0:
        raise DTypeError("[pow] Integers to negative integer powers are not allowed.")
    a = cast_to(a, dtype)
    special = _SPECIAL_POWERS.get(b)
    if special is not None and (dtype.is_floating_point or b in (1, 2, 3)):
        return special(a)
    line = user_line()
    if _exponents.setdefault(line, b) != b:
        _exponents[line] = None
    if _exponents[line] is None:
        return binary(ops.power, a, b)
    result: Tensor = ops.power(a, a.constant(b))
    return result


_SPECIAL_POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    1: lambda x: multiply(x, x.constant(1)),
    2: lambda x: multiply(x, x),
    3: lambda x: multiply(multiply(x, x), x),
    0.5: lambda x: unary(ops.sqrt, x),
    -0.5: lambda x: divide(x.constant(1), unary(ops.sqrt, x)),
    -1: lambda x: divide(x.constant(1), x),
    -2: lambda x: divide(x.constant(1), multiply(x, x)),
}


def bit_and(a: Any, b: Any) -> Tensor:
    """a & b."""
    return binary(ops.bit_and, a, b)


def bit_or(a: Any, b: Any) -> Tensor:
    """a | b."""
    return binary(ops.bit_or, a, b)


def bit_xor(a: Any, b: Any) -> Tensor:
    """a ^ b."""
    return binary(ops.bit_xor, a, b)


def shift_left(a: Any, b: Any) -> Tensor:
    """a << b."""
    return binary(ops.shift_left, a, b)


def shift_right(a: Any, b: Any) -> Tensor:
    """a >> b."""
    return binary(ops.shift_right, a, b)


def less(a: Any, b: Any) -> Tensor:
    """a < b."""
    return binary(ops.less, a, b)


def less_equal(a: Any, b: Any) -> Tensor:
    """a <= b."""
    return binary(ops.less_equal, a, b)


def greater(a: Any, b: Any) -> Tensor:
    """a > b."""
    return binary(ops.less, b, a)


def greater_equal(a: Any, b: Any) -> Tensor:
    """a >= b."""
    return binary(ops.less_equal, b, a)


def equal(a: Any, b: Any) -> Tensor:
    """a == b, element by element."""
    return binary(ops.equal, a, b)


def not_equal(a: Any, b: Any) -> Tensor:
    """a != b, element by element."""
    return binary(ops.not_equal, a, b)


def _install(name: str, function: Callable[[Any, Any], Tensor], reflected: bool = False) -> None:
    def operator(self: Tensor, other: Any) -> Any:
        if not is_operand(other):
            return NotImplemented
        return function(self, other)

    def swapped(self: Tensor, other: Any) -> Any:
        if not is_operand(other):
            return NotImplemented
        return function(other, self)

    operator.__doc__ = swapped.__doc__ = function.__doc__
    operator.__name__, swapped.__name__ = f"__{name}__", f"__r{name}__"
    setattr(Tensor, f"__{name}__", operator)
    if reflected:
        setattr(Tensor, f"__r{name}__", swapped)


for _name, _function in (
    ("add", add), ("sub", subtract), ("mul", multiply), ("truediv", divide),
    ("floordiv", floor_divide), ("mod", remainder), ("pow", power), ("and", bit_and),
    ("or", bit_or), ("xor", bit_xor), ("lshift", shift_left), ("rshift", shift_right),
):  # fmt: skip
    _install(_name, _function, reflected=True)

for _name, _function in (
    ("lt", less), ("le", less_equal), ("gt", greater), ("ge", greater_equal),
    ("eq", equal), ("ne", not_equal),
):  # fmt: skip
    _install(_name, _function)


@method("__neg__")
def negate(x: Tensor) -> Tensor:
    """-x."""
    if x.dtype is dtypes.bool_:
        raise DTypeError(
            "[neg] Negation, the `-` operator, on a bool tensor is not supported. If you are "
            "trying to invert a mask, use the `~` or `logical_not()` operator instead."
        )
    return unary(ops.negative, x)


@method("__pos__")
def positive(x: Tensor) -> Tensor:
    """x itself."""
    return x


@method("__abs__")
def absolute(x: Tensor) -> Tensor:
    """Magnitude of each element."""
    return x if x.dtype.kind in ("bool", "unsigned") else unary(ops.absolute, x)


@method("__invert__")
def invert(x: Tensor) -> Tensor:
    """~x: not for bools, all bits flipped for integers."""
    if x.dtype.is_floating_point or x.dtype.is_complex:
        raise DTypeError(
            "[bitwise_not] ~ (operator.invert) is only implemented on integer and Boolean-type "
            "tensors"
        )
    return unary(ops.logical_not if x.dtype is dtypes.bool_ else ops.bit_not, x)


def scalar_value(number: int) -> Value:
    """An integer of the user's (a start, an index) as a run-time argument."""
    return Value.from_number(int(number), dtypes.int64)

"""Tensors from data: numbers, nested lists, NumPy arrays, constants.

Comes in: data and, perhaps, a dtype. Goes out: tensors. Guaranteed: `tensor` copies, `as_tensor`
copies only where it must; dtypes are inferred as in PyTorch (floats become the default dtype,
integers int64).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from avalon import dtype as dtypes, ops
from avalon.device import CPU, Device
from avalon.dtype import DType
from avalon.errors import DeviceError
from avalon.graph.interpret import from_storage
from avalon.rebinding import rebindings
from avalon.shape import Shape
from avalon.tensor.core import Tensor, constructor
from avalon.tensor.layout import plain_strides
from avalon.tracing.values import Value, constant, encode

_default_dtype = dtypes.float32


def get_default_dtype() -> DType:
    """The dtype that Python floats become."""
    return _default_dtype


def set_default_dtype(dtype: DType) -> None:
    """Set the dtype that Python floats become.

    Raises:
        TypeError: `dtype` is not a floating point type.
    """
    global _default_dtype
    if not dtypes.checked(dtype).is_floating_point:
        raise TypeError(
            f"[set_default_dtype] only floating-point types are supported as the default type, not "
            f"{dtype!r}"
        )
    _default_dtype = dtype
    rebindings.count += 1


def to_device(device: Device | str | None) -> Device:
    """The device that is meant.

    Raises:
        DeviceError: there is no such device here.
    """
    if device is None or str(device) in ("cpu", "cpu:0"):
        return CPU
    raise DeviceError(f"[device] {str(device)!r} is not available here; the device that is: 'cpu'")


def number_for(number: Any, dtype: DType) -> Any:
    """A Python number as `dtype` holds it: integers wrap around, floats are rounded when used."""
    if dtype.is_floating_point:
        return float(number)
    if dtype is dtypes.bool_:
        return bool(number)
    bits = 8 * dtype.itemsize
    number = int(number) & ((1 << bits) - 1)
    if dtype.kind == "signed" and number >> (bits - 1):
        number -= 1 << bits
    return number


def _array_of(data: Any, dtype: DType | None) -> tuple[NDArray[Any], DType]:
    """Data as an array in storage form, and its dtype."""
    if dtype is not None:
        dtypes.checked(dtype)
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
        found = dtypes.from_numpy(array.dtype)
        dtype = dtype or found
        if found is dtype:
            return array.astype(dtype.storage, copy=False), dtype
        return encode(array, dtype), dtype
    if dtype is None:
        dtype = _inferred(data)
    try:
        array = np.array(_plain(data))
    except ValueError as error:
        raise ValueError(f"[tensor] expected nested sequences of equal lengths: {error}") from None
    if array.dtype == object:
        raise TypeError(f"[tensor] cannot make a tensor of {type(data).__name__} {data!r}")
    return encode(array, dtype), dtype


def _plain(data: Any) -> Any:
    """Nested data with tensors replaced by their numbers."""
    if isinstance(data, Tensor):
        return from_storage(data.detach().value().host(), data.dtype)
    if isinstance(data, (list, tuple)) and any(
        isinstance(item, (list, tuple, Tensor)) for item in data
    ):
        return [_plain(item) for item in data]
    return data


def _inferred(data: Any) -> DType:
    """The dtype of Python data: the strongest kind of number in it."""
    strongest = None
    waiting = [data]
    order = {"bool": 0, "signed": 1, "float": 2, "complex": 3}
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple, range)):
            waiting.extend(item)
            continue
        if isinstance(item, Tensor):
            found = item.dtype
        elif isinstance(item, (np.ndarray, np.generic)) and not isinstance(item, float):
            found = dtypes.from_numpy(item.dtype)
        elif isinstance(item, (bool, np.bool_)):
            found = dtypes.bool_
        elif isinstance(item, int):
            found = dtypes.int64
        elif isinstance(item, float):
            found = _default_dtype
        elif isinstance(item, complex):
            wide = _default_dtype is dtypes.float64
            found = dtypes.complex128 if wide else dtypes.complex64
        elif hasattr(item, "__array__") or (hasattr(item, "__len__") and not isinstance(item, str)):
            found = dtypes.from_numpy(np.asarray(item).dtype)
        else:
            raise TypeError(f"[tensor] could not infer dtype of {type(item).__name__}")
        if strongest is None or order.get(found.kind, 1) > order.get(strongest.kind, 1):
            strongest = found
    return strongest or _default_dtype


def tensor(
    data: Any,
    *,
    dtype: DType | None = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A new leaf tensor with a copy of `data`.

    Args:
        data: a number, nested sequences of numbers, an array or a tensor.
        dtype: its dtype; inferred from the data if None.
        device: where it lives.
        requires_grad: whether it gathers gradients.

    >>> import avalon as av
    >>> av.tensor([[1, 2], [3, 4]]).dtype
    avalon.int64

    Source: https://docs.pytorch.org/docs/stable/generated/torch.tensor.html
    """
    to_device(device)
    if isinstance(data, Tensor):
        made = Tensor._make(data.value())
        if dtype is not None and dtype is not data.dtype:
            made = ops.cast(made, dtype=dtype)
    else:
        array, dtype = _array_of(data, dtype)
        made = Tensor._make(Value.from_numpy(array, dtype))
    return made.requires_grad_() if requires_grad else made


def as_tensor(data: Any, dtype: DType | None = None, device: Device | str | None = None) -> Tensor:
    """`data` as a tensor, without a copy where that is possible; arrays share their memory.

    A Python number becomes a run-time argument of the programs that use it.
    """
    to_device(device)
    if isinstance(data, Tensor):
        return data if dtype is None or data.dtype is dtype else ops.cast(data, dtype=dtype)
    if isinstance(data, np.ndarray):
        found = from_numpy(data)
        return found if dtype is None or found.dtype is dtype else ops.cast(found, dtype=dtype)
    if isinstance(data, (bool, int, float, np.generic)):
        if dtype is None:
            dtype = _inferred(data)
        if not dtype.is_complex and np.ndim(data) == 0 and not np.iscomplexobj(data):
            return Tensor._make(Value.from_number(number_for(data, dtype), dtype))
    return tensor(data, dtype=dtype, device=device)


def constant_tensor(
    value: Any, shape: Sequence[int], dtype: DType | None = None, device: Device | str | None = None
) -> Tensor:
    """A tensor with `value` in every element, which is part of the program's structure."""
    to_device(device)
    return Tensor._make(constant(value, tuple(shape), dtype or _inferred(value)))


class _ForeignArray:
    """Memory that belongs to a NumPy array of the user's."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def alive(self) -> bool:
        return True

    def window(self, shape: Shape, strides: Shape, offset: int) -> NDArray[Any]:
        array = self.array
        whole = prod(shape) == array.size and strides == plain_strides(shape)
        if whole and array.flags.c_contiguous:
            return array.reshape(shape)
        size = array.itemsize
        pairs = zip(array.shape, array.strides, strict=True)
        span = 1 + sum((extent - 1) * step // size for extent, step in pairs)
        flat = as_strided(array, (max(span, 0),), (size,))
        return as_strided(flat[offset:], shape, tuple(step * size for step in strides))

    def settle(self) -> Value:
        raise AssertionError("memory of the user's array is always in use")


def from_numpy(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory: a write to either shows in the other.

    A recorded read takes a copy, a write runs at once.

    >>> import avalon as av
    >>> import numpy as np
    >>> array = np.zeros(2)
    >>> x = av.from_numpy(array)
    >>> array[0] = 5
    >>> x
    tensor([5., 0.], dtype=avalon.float64)

    Raises:
        TypeError: not an array, or one of a dtype that Avalon does not have.
        ValueError: a stride is negative, or no multiple of the element's size.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"[from_numpy] expected np.ndarray (got {type(array).__name__})")
    dtype = dtypes.from_numpy(array.dtype)
    contiguous = array.flags.c_contiguous
    if (
        not contiguous
        and array.size
        and any(
            step < 0 or step % array.itemsize
            for step, extent in zip(array.strides, array.shape, strict=True)
            if extent > 1
        )
    ):
        raise ValueError(
            "[from_numpy] at least one stride of the array is negative or no multiple of the "
            "element size; tensors cannot have such strides. Use array.copy()."
        )
    if not array.dtype.isnative:
        raise TypeError(
            "[from_numpy] the byte order is not this machine's; use array.astype('=' ...)"
        )
    made = Tensor._make(Value(array.shape, dtype))
    made._cell.memory = _ForeignArray(array)
    if not contiguous:
        strides = tuple(step // array.itemsize for step in array.strides)
        made._strides = made._cell.strides = strides
    return made


@constructor
def _tensor_class(
    cls: type[Tensor], *data: Any, dtype: DType | None = None, device: Device | str | None = None
) -> Tensor:
    """`Tensor(2, 3)` has undefined elements (zeros here), `Tensor([1, 2])` those of the data."""
    if len(data) == 1 and not isinstance(data[0], int):
        made = tensor(data[0], dtype=dtype or get_default_dtype(), device=device)
    else:
        made = constant_tensor(0.0, data if data else (0,), dtype or get_default_dtype(), device)
    if cls is Tensor:
        return made
    result: Tensor = made._alias(cls)
    return result

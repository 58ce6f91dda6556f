"""Tensors and the world outside: Python numbers, NumPy, DLPack, pickle, deepcopy.

Comes in: a tensor. Goes out: its value in another form, computed for it. Guaranteed: `numpy()` is a
writable view, and writes to either side show in the other while the array lives; after that the
memory is the tensor's own again; storages that tensors share stay shared in what is pickled or
copied together.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from sys import getrefcount
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from avalon import dtype as dtypes, ops
from avalon.dtype import DType
from avalon.errors import AutogradError
from avalon.graph.interpret import from_storage
from avalon.rebinding import rebindings
from avalon.runtime.buffer import Buffer
from avalon.shape import Shape, contiguous_strides
from avalon.tensor.cell import Cell, Kind, Move
from avalon.tensor.core import Tensor, method
from avalon.tensor.creation import (
    from_numpy,
    tensor,
    to_device,
)
from avalon.tensor.layout import preserved_strides
from avalon.tensor.operators import cast_to
from avalon.tensor.views import unbind
from avalon.tracing.history import History
from avalon.tracing.modes import modes
from avalon.tracing.operation import call_of
from avalon.tracing.values import Value, refuse_reading

# How C reads one element that Python has a number for.
_C_TYPES: dict[DType, Any] = {
    dtypes.float32: ctypes.c_float,
    dtypes.float64: ctypes.c_double,
    dtypes.int64: ctypes.c_int64,
    dtypes.int32: ctypes.c_int32,
    dtypes.bool_: ctypes.c_bool,
}


def storage_array(x: Tensor) -> NDArray[Any]:
    """The elements in storage form, computed; not to be written.

    Raises:
        TraceError: the value is asked for while a step is recorded for replay.
    """
    refuse_reading()
    return x.value().host()


def readable(x: Tensor) -> NDArray[Any]:
    """The elements as NumPy can compute with them (bfloat16 as float32); not to be written."""
    return from_storage(storage_array(x), x.dtype)


class _OwnMemory:
    """A cell's own buffer while NumPy arrays look into it."""

    __slots__ = ("_dtype", "_shape", "_strides", "buffer")

    def __init__(self, buffer: Buffer, dtype: DType, shape: Shape, strides: Shape | None) -> None:
        self.buffer = buffer
        self._dtype = dtype
        self._shape = shape
        self._strides = strides

    def alive(self) -> bool:
        return self.buffer.pinned

    def window(self, shape: Shape, strides: Shape, offset: int) -> NDArray[Any]:
        count = self.buffer.nbytes // self._dtype.itemsize
        flat = self.buffer.as_numpy(self._dtype, (count,))
        steps = tuple(step * self._dtype.itemsize for step in strides)
        return as_strided(flat[offset:], shape, steps)

    def settle(self) -> Value:
        if self._strides is None:
            return Value(self._shape, self._dtype, self.buffer)
        return Value.from_numpy(self.window(self._shape, self._strides, 0), self._dtype)


def _share(cell: Cell) -> _OwnMemory:
    """Make the cell's memory one that others may write."""
    value = cell.value
    buffer = value.buffer or value.force()
    # somebody else who holds the value or its memory must not see writes that come from outside
    if getrefcount(value) > 3 or getrefcount(buffer) > 3 or value.number is not None:
        buffer = Buffer.from_numpy(value.host())
    if cell.strides is not None:
        lying = Buffer(value.nbytes)
        memory = _OwnMemory(lying, value.dtype, cell.shape, cell.strides)
        memory.window(cell.shape, cell.strides, 0)[...] = value.host()
    else:
        memory = _OwnMemory(buffer, value.dtype, cell.shape, None)
    cell.memory = memory
    rebindings.count += cell.watched
    return memory


@method("numpy")
def numpy(x: Tensor, *, force: bool = False) -> NDArray[Any]:
    """A NumPy array that shares the tensor's memory.

    Raises:
        RuntimeError: the tensor requires gradients; write `x.detach().numpy()`.
        TypeError: NumPy has no such dtype (bfloat16); write `x.float().numpy()`.
    """
    if force:
        return np.array(readable(x))
    if (x._requires or x._history is not None or x._base is not None) and x.requires_grad:
        raise AutogradError(
            "[numpy] Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
            "instead."
        )
    if x.dtype is dtypes.bfloat16:
        raise TypeError("[numpy] Got unsupported dtype bfloat16; convert first: x.float().numpy()")
    if modes.replay is not None:
        refuse_reading()
    cell = x._cell
    memory = cell.foreign() if cell.memory is not None else None
    if memory is None:
        memory = _share(cell)
    if type(memory) is _OwnMemory and not x._moves and x._strides is None:
        return memory.buffer.as_numpy(x.dtype, x.shape)
    return memory.window(x.shape, x.stride(), x._offset)


@method("__array__")
def to_array(x: Tensor, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
    """What `numpy.asarray(x)` gives."""
    array = numpy(x)
    if copy or (dtype is not None and array.dtype != dtype):
        return array.astype(dtype or array.dtype)
    return array


@method("__dlpack__")
def to_dlpack(x: Tensor, **options: Any) -> Any:
    """A DLPack capsule of the tensor's memory."""
    options.pop("stream", None)
    return numpy(x).__dlpack__(**options)


@method("__dlpack_device__")
def dlpack_device(x: Tensor) -> tuple[int, int]:
    """Where the memory is, in DLPack's terms."""
    return (1, 0)


def from_dlpack(x: Any) -> Tensor:
    """A tensor that shares the memory of any object that speaks DLPack."""
    return from_numpy(np.from_dlpack(x))


@method("item")
def item(x: Tensor) -> Any:
    """The one element as a Python number.

    Raises:
        RuntimeError: more or less than one element.
    """
    if x.numel() != 1:
        raise AutogradError(
            f"[item] a Tensor with {x.numel()} elements cannot be converted to Scalar (shape "
            f"{x.shape})"
        )
    kind = _C_TYPES.get(x.dtype)
    if kind is None:
        return readable(x).reshape(()).item()
    refuse_reading()
    return kind.from_address(x.value().force().address).value


@method("tolist")
def tolist(x: Tensor) -> Any:
    """The elements as nested lists of Python numbers."""
    return readable(x).tolist()


@method("__bool__")
def to_bool(x: Tensor) -> bool:
    """True unless the one element is zero."""
    if x.numel() != 1:
        problem = "no values" if x.numel() == 0 else "more than one value"
        raise AutogradError(f"[bool] Boolean value of Tensor with {problem} is ambiguous")
    return bool(item(x))


@method("__int__")
def to_int(x: Tensor) -> int:
    """The one element as an int."""
    return int(item(x))


@method("__float__")
def to_float(x: Tensor) -> float:
    """The one element as a float."""
    return float(item(x))


@method("__complex__")
def to_complex(x: Tensor) -> complex:
    """The one element as a complex number."""
    return complex(item(x))


@method("__index__")
def to_index(x: Tensor) -> int:
    """The one integer, where Python wants an index."""
    if x.numel() != 1 or x.dtype.is_floating_point or x.dtype.is_complex:
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(item(x))


@method("__iter__")
def iterate(x: Tensor) -> Iterator[Tensor]:
    """The slices of the first axis."""
    if not x.shape:
        raise TypeError("iteration over a 0-d tensor")
    return iter(unbind(x, 0))


@method("__contains__")
def contains(x: Tensor, element: Any) -> bool:
    """True if an element equals `element`."""
    return bool((readable(x) == (element.item() if isinstance(element, Tensor) else element)).any())


# --- copies and conversions -----------------------------------------------------------------------


def same(x: Tensor) -> Tensor:
    """A tensor of its own with the value and the history of `x`. No memory is copied: values never
    change.
    """
    value = x.value()
    edge = x._edge() if modes.grad else None
    made = Tensor._make(value)
    if edge is not None:
        operation = call_of(ops.reshape, (value,), {"shape": x.shape})
        made._history = History.of_call(operation, (value,), (None,), (edge,), value, None)
    return made


@method("clone")
def clone(x: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy, through which gradients flow."""
    made = same(x)
    if x._strides is not None and memory_format is None:
        made._set_strides(preserved_strides(x))
    return made


@method("contiguous")
def contiguous(x: Tensor, memory_format: Any = None) -> Tensor:
    """`x` itself if its elements lie in row-major order, else a copy of which that holds."""
    return x if x.is_contiguous() else same(x)


@method("to")
def to(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """`x` as another dtype or on another device: `to(dtype)`, `to(device)`, `to(device, dtype)`,
    `to(other)`. `x` itself if nothing changes, unless `copy=True`.
    """
    dtype, device = options.get("dtype"), options.get("device")
    for argument in arguments:
        if isinstance(argument, DType):
            dtype = argument
        elif isinstance(argument, Tensor):
            dtype = argument.dtype
        elif not isinstance(argument, bool) and argument is not None:
            device = argument
    to_device(device)
    if dtype is None or dtype is x.dtype:
        return clone(x) if options.get("copy") else x
    return cast_to(x, dtype)


def _conversion(name: str, dtype: DType) -> None:
    def convert(x: Tensor) -> Tensor:
        return cast_to(x, dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"`x` as {dtype.name}; `x` itself if it is that."
    method(name)(convert)


for _name, _dtype in (
    ("float", dtypes.float32), ("double", dtypes.float64), ("half", dtypes.float16),
    ("bfloat16", dtypes.bfloat16), ("long", dtypes.int64), ("int", dtypes.int32),
    ("short", dtypes.int16), ("char", dtypes.int8), ("byte", dtypes.uint8), ("bool", dtypes.bool_),
):  # fmt: skip
    _conversion(_name, _dtype)


@method("type")
def type_(x: Tensor, dtype: DType | None = None) -> Any:
    """The dtype, or `x` as another."""
    return repr(x.dtype) if dtype is None else cast_to(x, dtype)


@method("type_as")
def type_as(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the dtype of `other`."""
    return cast_to(x, other.dtype)


@method("cpu")
def cpu(x: Tensor) -> Tensor:
    """`x` in the computer's own memory."""
    return x


@method("cuda")
def cuda(x: Tensor, device: Any = None) -> Tensor:
    """`x` on a GPU."""
    to_device("cuda")
    return x


@method("new_tensor")
def new_tensor(x: Tensor, data: Any, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """A tensor from data, in the dtype of `x`."""
    return tensor(data, dtype=dtype or x.dtype, **options)


# --- facts ----------------------------------------------------------------------------------------


@method("size")
def size(x: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one axis."""
    return x.shape if dim is None else x.shape[dim]


@method("dim")
def dim(x: Tensor) -> int:
    """Number of axes."""
    return x.ndim


@method("is_floating_point")
def is_floating_point(x: Tensor) -> bool:
    """True for the float dtypes."""
    return x.dtype.is_floating_point


@method("is_complex")
def is_complex(x: Tensor) -> bool:
    """True for the complex dtypes."""
    return x.dtype.is_complex


@method("is_signed")
def is_signed(x: Tensor) -> bool:
    """True for dtypes that have negative numbers."""
    return x.dtype.is_signed


@method("element_size")
def element_size(x: Tensor) -> int:
    """Bytes of one element."""
    return x.dtype.itemsize


@method("data_ptr")
def data_ptr(x: Tensor) -> int:
    """The address of the first element, once the value is computed."""
    cell = x._cell
    memory = cell.foreign() if cell.memory is not None else None
    if memory is not None:
        return int(memory.window(x.shape, x.stride(), x._offset).ctypes.data)
    return int(cell.value.force().address + x._offset * x.dtype.itemsize)


@method("is_set_to")
def is_set_to(x: Tensor, other: Tensor) -> bool:
    """True if both are the same window on the same storage."""
    return x._same_window(other)


method("nelement")(Tensor.numel)
method("ndimension")(dim)
Tensor.itemsize = property(element_size, doc="Bytes of one element.")
Tensor.nbytes = property(lambda x: x.numel() * x.dtype.itemsize, doc="Bytes of all elements.")
Tensor.is_cuda = property(lambda x: False, doc="True on a GPU.")


# --- pickle and deepcopy
# ----------------------------------------------------------------------------


def _restore_cell(array: NDArray[Any], dtype: DType, strides: Shape | None) -> Cell:
    return Cell(Value.from_numpy(array, dtype), array.shape, strides)


def _reduce_cell(cell: Cell) -> tuple[Any, ...]:
    memory = cell.foreign()
    if memory is None:
        return _restore_cell, (np.array(cell.value.host()), cell.value.dtype, cell.strides)
    strides = contiguous_strides(cell.shape) if cell.strides is None else cell.strides
    array = np.array(memory.window(cell.shape, strides, 0))
    return _restore_cell, (array, cell.value.dtype, cell.strides)


Cell.__reduce__ = _reduce_cell  # type: ignore[method-assign, assignment]


def _restore(
    cls: type[Tensor], cell: Cell, moves: Any, look: Any, requires: bool, fields: dict[str, Any]
) -> Tensor:
    made: Tensor = object.__new__(cls)
    made._cell = cell
    made.shape, made.dtype, made._strides, made._offset = look
    found: list[Move] = []
    for primitive, numbers, named, _ in moves:
        starts = [Value.from_number(number, dtypes.int64) for number in numbers]
        before = Kind(found[-1].shape if found else cell.value.shape, made.dtype)
        found.append(Move.of(primitive, before, *starts, **named))
    made._moves = tuple(found)
    made._requires = requires
    made.__dict__.update(fields)
    return made


def _moves_as_data(x: Tensor) -> list[Any]:
    return [
        (move.primitive, [v.number for v in move.operands], move.parameters, move.shape)
        for move in x._moves
    ]


def _own_fields(x: Tensor) -> dict[str, Any]:
    """What users put on the tensor."""
    return {name: field for name, field in vars(x).items() if name not in _INTERNAL}


_INTERNAL = frozenset((*Tensor.__annotations__, *vars(Tensor)))


@method("__reduce_ex__")
def reduce(x: Tensor, protocol: int) -> tuple[Any, ...]:
    """Pickle: the storage, the way from it to this tensor, whether it requires gradients."""
    look = (x.shape, x.dtype, x._strides, x._offset)
    fields = _own_fields(x)
    return _restore, (type(x), x._cell, _moves_as_data(x), look, x.requires_grad, fields)


@method("__deepcopy__")
def deepcopy(x: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy with a storage of its own; storages shared within one deepcopy stay shared.

    Raises:
        RuntimeError: `x` is not a leaf.
    """
    if not x.is_leaf:
        raise AutogradError(
            "[deepcopy] Only Tensors created explicitly by the user (graph leaves) support the "
            "deepcopy protocol at the moment. Use x.detach().clone()."
        )
    if id(x) in memo:
        known: Tensor = memo[id(x)]
        return known
    cell = memo.get(id(x._cell))
    if cell is None:
        old = x._cell
        if old.foreign() is None:
            cell = Cell(old.value, old.shape, old.strides)
        else:
            build, arguments = _reduce_cell(old)
            cell = build(*arguments)
        memo[id(old)] = cell
    made: Tensor = x._alias(type(x))
    made._cell = cell
    made._requires = x.requires_grad
    memo[id(x)] = made
    if x._grad is not None:
        made._grad = copy.deepcopy(x._grad, memo)
    made.__dict__.update(copy.deepcopy(_own_fields(x), memo))
    return made

"""Writes: what `x.add_(y)`, `x[i] = y`, `x.copy_(y)` and `x.data = y` do.

Comes in: a tensor to write to and what to write. Goes out: the same tensor. Guaranteed: the cell
gets a new value, so that everything that looks into it sees the write and everything that read
before keeps what it read; in grad mode the base gets the history of the write; under `no_grad`,
through `.data` and `detach()`, histories stay as they are; PyTorch's errors come before anything
has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.dtype import DType, category
from avalon.errors import AutogradError, DTypeError, ShapeError, TraceError
from avalon.rebinding import rebindings
from avalon.shape import broadcast_shapes
from avalon.tensor import operators
from avalon.tensor.cell import Move
from avalon.tensor.core import Tensor, method, wrap
from avalon.tensor.creation import as_tensor, constant_tensor
from avalon.tensor.layout import is_dense
from avalon.tensor.operators import broadcast_to, cast_to, is_operand, result_type
from avalon.tracing.history import History
from avalon.tracing.modes import modes, no_grad
from avalon.tracing.values import Value, record, recorder, user_line


def check_in_place(x: Tensor, differentiable: bool) -> None:
    """Raise what PyTorch raises when `x` is written; `differentiable`: an operand needs gradients.

    Raises:
        AutogradError: `x` is a leaf that requires gradients, or a view of one.
        RuntimeError: several elements of `x` are one place in memory.
    """
    _check_leaf(x, differentiable)
    if _repeats(x):
        raise AutogradError(
            "[in-place] unsupported operation: more than one element of the written-to tensor "
            f"refers to a single memory location (shape {x.shape}, strides {x._strides}). Please "
            "clone() the tensor before performing the operation."
        )


def _check_leaf(x: Tensor, differentiable: bool) -> None:
    if modes.grad and (differentiable or x.requires_grad):
        if x._base is not None:
            x._forbid_special_view("is being")
            if x.requires_grad and x._base._history is None:
                raise AutogradError(
                    "[in-place] a view of a leaf Variable that requires grad is being used in an "
                    "in-place operation. Write under `with av.no_grad():`, or to `x.data`."
                )
        if x.requires_grad and not x._is_interior():
            raise AutogradError(
                "[in-place] a leaf Variable that requires grad is being used in an in-place "
                "operation. Write under `with av.no_grad():`, or to `x.data`."
            )


def _repeats(x: Tensor) -> bool:
    """True if several elements are one place in memory."""
    return (
        x._strides is not None
        and 0 not in x.shape
        and any(step == 0 and extent > 1 for step, extent in zip(x._strides, x.shape, strict=True))
    )


def check_overlap(x: Tensor, source: Any, exactly: bool = True) -> None:
    """Raise if `source` looks at a part of `x`'s memory; `exactly`: the very same elements are
    fine.
    """
    if (
        not isinstance(source, Tensor)
        or source._cell is not x._cell
        or (exactly and source is x)
        or (source is not x and not (_fills(x) and _fills(source)))
    ):
        return
    first, second = x._offset, source._offset
    if source is x:
        pass
    elif exactly and first == second and x.numel() == source.numel():
        if x.stride() == source.stride():
            return
    elif first + x.numel() <= second or second + source.numel() <= first:
        return
    raise AutogradError(
        "[in-place] unsupported operation: some elements of the input tensor and the written-to "
        "tensor refer to a single memory location. Please clone() the tensor before performing "
        "the operation."
    )


def _fills(x: Tensor) -> bool:
    """True if `x` fills a stretch of its storage."""
    return x.numel() > 0 and is_dense(x.shape, x.stride())


def write(x: Tensor, new: Tensor, edge: History | None) -> Tensor:
    """Put `new`, of `x`'s shape and dtype, into `x`'s storage; `edge` is the history that `x` gets,
    or None if histories stay as they are. The checks have passed.
    """
    value = new.value()
    cell = x._cell
    if edge is not None:
        _write_history(x, value, edge)
    elif x._requires and not modes.grad:
        recorder().updated = True
    memory = cell.foreign() if cell.memory is not None else None
    if memory is not None:
        if modes.replay is not None:
            line = user_line()
            raise TraceError(
                "[compile] the step writes a tensor whose memory a NumPy array shares, which has "
                "to see it at once, though a compiled step runs as one program at its end. Keep a "
                "copy of it, `x.numpy().copy()`, or drop the array before the step."
                + (f" Written at {line[0]}:{line[1]}." if line else "")
            )
        np.copyto(memory.window(x.shape, x.stride(), x._offset), value.host())
    elif x.numel() and (edge is None or not _is_joint(x)):
        _put(x, _through(x, value))
    cell.version += 1
    rebindings.count += cell.watched
    x._count().write()
    return x


def replace(x: Tensor, value: Value) -> None:
    """Put a value of `x`'s shape and dtype into `x`'s storage; histories stay as they are."""
    cell = x._cell
    if x._moves or cell.memory is not None:
        write(x, wrap(value, None), None)
        return
    if x._requires and not modes.grad:
        recorder().updated = True
    _put(x, value)
    cell.version += 1
    rebindings.count += cell.watched
    x._count().write()


def _is_joint(x: Tensor) -> bool:
    """True if a write to `x` does the value and the history of its base in one."""
    base = x._base
    return (
        base is not None
        and x._path is x._moves
        and x._cell is base._cell
        and x._cell.memory is None
    )


def _put(x: Tensor, value: Value) -> None:
    cell = x._cell
    if modes.body is not None:
        modes.body.refuse_write(cell.value)
    recorder().remember(cell, cell.value)
    cell.value = value


def _through(x: Tensor, value: Value) -> Value:
    """The cell's new value after `value` was written through `x`'s movements."""
    if any(move.primitive is ops.broadcast for move in x._moves):
        with no_grad():
            return _written(wrap(x._cell.value, None), x._moves, wrap(value, None)).value()
    levels = [x._cell.value]
    for move in x._moves[:-1]:
        levels.append(record(move.primitive, (levels[-1], *move.operands), move.parameters))
    for move, level in zip(reversed(x._moves), reversed(levels), strict=False):
        value = move.primitive.rules["write"](level, value, *move.operands, **move.parameters)
    return value


def _written(start: Tensor, path: Sequence[Move], new: Tensor) -> Tensor:
    """What `start` becomes when `new` is written to the window that `path` leads to."""
    levels = [start]
    for move in path[:-1]:
        levels.append(move.primitive(levels[-1], *_operands(move), **move.parameters))
    written: Tensor | None = None  # which elements were, once that matters
    if any(move.primitive is ops.broadcast for move in path):
        written = constant_tensor(True, new.shape, dtypes.bool_)
    for move, level in zip(reversed(path), reversed(levels), strict=False):
        write_rule = move.primitive.rules["write"]
        if move.primitive is ops.broadcast and move.shape != level.shape:
            assert written is not None
            new, written = _merged(level, new, written)
            continue
        new = write_rule(level, new, *_operands(move), **move.parameters)
        if written is not None:
            unwritten = constant_tensor(False, level.shape, dtypes.bool_)
            written = write_rule(unwritten, written, *_operands(move), **move.parameters)
    return new


def _operands(move: Move) -> list[Tensor]:
    return [wrap(operand, None) for operand in move.operands]


def _merged(level: Tensor, new: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
    """Undo an expansion of `level`: each element takes the one of its copies that was written."""
    added = new.ndim - level.ndim
    repeated = [
        axis for axis in range(new.ndim)
        if axis < added or level.shape[axis - added] != new.shape[axis]
    ]  # fmt: skip
    others = [axis for axis in range(new.ndim) if axis not in repeated]
    shape = (prod(new.shape[axis] for axis in repeated), level.numel())
    order = (*repeated, *others)
    copies = ops.reshape(ops.transpose(new, permutation=order), shape=shape)
    marks = ops.reshape(ops.transpose(written, permutation=order), shape=shape)
    which = ops.reshape(ops.argmax(marks, axis=0), shape=(1, shape[1]))
    chosen = ops.reshape(ops.gather(copies, which, axis=0), shape=level.shape)
    some = ops.reshape(ops.reduce_max(marks, axes=(0,)), shape=level.shape)
    return ops.where(some, chosen, level), some


def _write_history(x: Tensor, value: Value, edge: History) -> None:
    """Give `x`, or the tensor that it is a view of, the history of the write. Where the view and
    its base are windows on the same cell in the same way, the cell's new value is a by-product.
    """
    base = x._base
    if base is None:
        x._rebase(edge)
        x._requires = False
        return
    if not x.numel():
        like = value.constant(0)
        nothing = History.of_function(
            "write", (base._edge(), edge), base, lambda g: (g, wrap(like, None))
        )
        nothing.once = True
        base._rebase(nothing)
        return
    new = _written(wrap(base.value(), base._edge()), x._path, wrap(value, edge))
    assert new._history is not None
    new._history.once = True
    base._rebase(new._history)
    base._requires = False
    if _is_joint(x):
        _put(x, new.value())


def _erased(x: Tensor, new: Tensor) -> History | None:
    """The history of `x` after it was overwritten: `new` gets the gradient, the old content
    zeros.
    """
    before, after = x.before_write()._edge(), new._edge()
    if before is None and after is None:
        return None
    return History.of_function(
        "copy", (before, after), x, lambda g: (g.constant(0) if before is not None else None, g)
    )


@method("assign_")
def assign_(x: Tensor, new: Tensor) -> Tensor:
    """Make `new`, which was computed from `x`, the content of `x`: how in-place functions are
    built.

    Raises:
        RuntimeError: shape or dtype do not fit, or `x` must not be written in place.
    """
    if new.shape != x.shape:
        raise ShapeError(
            f"[in-place] output with shape {x.shape} doesn't match the broadcast shape {new.shape}"
        )
    check_castable(new.dtype, x.dtype)
    differentiable = modes.grad and new.requires_grad
    check_in_place(x, differentiable)
    new = cast_to(new, x.dtype)
    edge = None
    if modes.grad and (differentiable or x.requires_grad):
        edge = new._edge()
        if edge is None or edge is new._leaf or edge is x._edge():
            edge = _erased(x, new)
    return write(x, new, edge)


def check_castable(given: DType, wanted: DType) -> None:
    """Raise if a result of dtype `given` cannot be written into a tensor of dtype `wanted`."""
    if category(given) > category(wanted):
        raise DTypeError(
            f"[in-place] result type {given.name} can't be cast to the desired output type "
            f"{wanted.name}"
        )


@method("copy_")
def copy_(x: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    """Write `source`, broadcast and converted to `x`'s dtype, into `x`."""
    if not isinstance(source, Tensor):
        source = as_tensor(source)
    differentiable = modes.grad and source.requires_grad
    if _repeats(x) and source._same_window(x):
        _check_leaf(x, differentiable)
        x._count().write()
        return x
    check_in_place(x, differentiable)
    check_overlap(x, source)
    if source.shape != x.shape and broadcast_shapes("copy_", x.shape, source.shape) != x.shape:
        raise ShapeError(
            f"[copy_] output with shape {x.shape} doesn't match the broadcast shape of "
            f"{source.shape}"
        )
    tracked = modes.grad and (differentiable or x.requires_grad)
    if not tracked and source._same_window(x):  # the last act of `x[i] += 1`
        x._count().write()
        return x
    new = broadcast_to(cast_to(source, x.dtype), x.shape)
    return write(x, new, _erased(x, new) if tracked else None)


@method("fill_")
def fill_(x: Tensor, value: Any) -> Tensor:
    """Write one number, or a zero-dimensional tensor, into every element."""
    if isinstance(value, Tensor):
        if value.shape:
            raise ShapeError(
                f"[fill_] fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value.ndim} dimensions"
            )
        return copy_(x, wrap(value.value(), value._edge()) if value._cell is x._cell else value)
    value = as_tensor(value, dtype=x.dtype)
    return _fill_repeated(x, value) if _repeats(x) else copy_(x, value)


@method("zero_")
def zero_(x: Tensor) -> Tensor:
    """Write zeros."""
    return fill_(x, 0)


def _fill_repeated(x: Tensor, value: Tensor) -> Tensor:
    """Fill an expanded tensor: one number may be written to one place several times."""
    _check_leaf(x, modes.grad and value.requires_grad)
    new = broadcast_to(cast_to(value, x.dtype), x.shape)
    tracked = modes.grad and (value.requires_grad or x.requires_grad)
    return write(x, new, _erased(x, new) if tracked else None)


def _in_place(name: str, function: Callable[[Any, Any], Tensor]) -> None:
    def write_result(x: Tensor, other: Any) -> Tensor:
        if operator and not is_operand(other):
            return NotImplemented
        check_overlap(x, other)
        return assign_(x, function(x.before_write(), other))

    operator = name.startswith("__")
    write_result.__name__ = write_result.__qualname__ = name
    write_result.__doc__ = f"In-place version of `{name.strip('_')}`."
    method(name)(write_result)


for _name, _function in (
    ("mul", operators.multiply), ("floor_divide", operators.floor_divide),
    ("remainder", operators.remainder), ("pow", operators.power),
    ("bitwise_and", operators.bit_and), ("bitwise_or", operators.bit_or),
    ("bitwise_xor", operators.bit_xor), ("eq", operators.equal), ("ne", operators.not_equal),
    ("lt", operators.less), ("le", operators.less_equal), ("gt", operators.greater),
    ("ge", operators.greater_equal), ("div", operators.divide),
    ("bitwise_left_shift", operators.shift_left), ("bitwise_right_shift", operators.shift_right),
):  # fmt: skip
    _in_place(_name + "_", _function)

for _name, _function in (
    ("iadd", operators.add), ("isub", operators.subtract), ("imul", operators.multiply),
    ("itruediv", operators.divide), ("ifloordiv", operators.floor_divide),
    ("imod", operators.remainder), ("ipow", operators.power), ("iand", operators.bit_and),
    ("ior", operators.bit_or), ("ixor", operators.bit_xor),
    ("ilshift", operators.shift_left), ("irshift", operators.shift_right),
):  # fmt: skip
    _in_place(f"__{_name}__", _function)


def _scaled(other: Any, alpha: Any) -> Any:
    return other if type(alpha) is int and alpha == 1 else operators.multiply(other, alpha)


@method("add_")
def add_(x: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """x += alpha * other."""
    check_overlap(x, other)
    return assign_(x, operators.add(x.before_write(), _scaled(other, alpha)))


@method("sub_")
def sub_(x: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    """x -= alpha * other."""
    check_overlap(x, other)
    return assign_(x, operators.subtract(x.before_write(), _scaled(other, alpha)))


@method("addcmul_")
def addcmul_(x: Tensor, first: Tensor, second: Tensor, *, value: Any = 1) -> Tensor:
    """x += value * first * second."""
    return assign_(
        x, operators.add(x.before_write(), _scaled(operators.multiply(first, second), value))
    )


@method("addcdiv_")
def addcdiv_(x: Tensor, first: Tensor, second: Tensor, *, value: Any = 1) -> Tensor:
    """x += value * first / second."""
    return assign_(
        x, operators.add(x.before_write(), _scaled(operators.divide(first, second), value))
    )


@method("masked_fill_")
def masked_fill_(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Write one number, or a zero-dimensional tensor, where `mask` is true."""
    return assign_(x, masked_fill(x.before_write(), mask, value))


@method("masked_fill")
def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where `mask` is true, `x` elsewhere."""
    if mask.dtype is not dtypes.bool_:
        raise DTypeError(
            f"[masked_fill] expects the mask to have the dtype bool, but got {mask.dtype.name}"
        )
    if isinstance(value, Tensor) and value.shape:
        raise ShapeError(
            f"[masked_fill] only supports a 0-dimensional value tensor, but got shape {value.shape}"
        )
    shape = broadcast_shapes("masked_fill", x.shape, mask.shape)
    check_castable(result_type(value), x.dtype)
    filling = value if isinstance(value, Tensor) else as_tensor(value, dtype=x.dtype)
    result: Tensor = ops.where(
        broadcast_to(mask, shape),
        broadcast_to(cast_to(filling, x.dtype), shape),
        broadcast_to(x, shape),
    )
    return result


@method("detach")
def detach(x: Tensor) -> Tensor:
    """The same storage, without history."""
    if modes.body is not None:
        return wrap(ops.stop_gradient(x).value(), None)
    made: Tensor = x._alias()
    made._counter = x._count()
    return made


@method("detach_")
def detach_(x: Tensor) -> Tensor:
    """Forget the history.

    Raises:
        RuntimeError: `x` is a view.
    """
    if x._base is not None:
        raise AutogradError("[detach_] Can't detach views in-place. Use detach() instead.")
    x._history = None
    x._requires = False
    rebindings.count += 1
    return x


def _get_data(x: Tensor) -> Tensor:
    return x._alias()


def _set_data(x: Tensor, new: Tensor) -> None:
    if not isinstance(new, Tensor):
        raise TypeError(f"[data] Variable data has to be a tensor, but got {type(new).__name__}")
    if new.dtype is not x.dtype and x.requires_grad and not new.dtype.is_floating_point:
        raise DTypeError(f"[data] a tensor that requires grad cannot hold {new.dtype.name}")
    x._cell, x._moves = new._cell, new._moves
    x.shape, x.dtype = new.shape, new.dtype
    x._strides, x._offset = new._strides, new._offset
    x._memo = None
    rebindings.count += 1
    if x._leaf is not None:
        x._leaf.shape, x._leaf.dtype = x.shape, x.dtype


Tensor.data = property(
    _get_data,
    _set_data,
    doc="The same storage, without history and with a version counter of its own.",
)

"""Cells, which hold values, and movements, which lead from a cell to what a tensor shows.

Comes in: values, and memory that others can write. Goes out: what tensors are made of. Guaranteed:
a cell's value is immutable, and replaced by writes; memory that somebody else can see is read by
snapshots, until nobody does; movements one after the other are one entry, and one history.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from avalon.dtype import DType
from avalon.graph.primitive import Primitive
from avalon.rebinding import rebindings
from avalon.shape import Shape
from avalon.tracing.backward import backward_of_chain
from avalon.tracing.history import History
from avalon.tracing.modes import modes
from avalon.tracing.operation import Operation, call_of, chain_of
from avalon.tracing.recorded import user_place
from avalon.tracing.values import Value, recorder


class Memory(Protocol):
    """Memory that others can write: a cell that has it reads snapshots and writes at once."""

    def alive(self) -> bool:
        """True while somebody else can see it."""
        ...

    def window(self, shape: Shape, strides: Shape, offset: int) -> NDArray[Any]:
        """The array at these strides and offset, in elements."""
        ...

    def settle(self) -> Value:
        """The cell's value, once nobody else sees the memory."""
        ...


class Cell:
    """Storage: a value that writes replace. `version` counts the writes, through whatever tensor.

    `shape` and `strides` say how the storage's elements lie, as PyTorch would lay them. `watched`
    says that a replay relies on what the cell holds: rebinding it counts in `rebindings`.
    """

    __slots__ = ("__weakref__", "memory", "shape", "strides", "value", "version", "watched")

    def __init__(self, value: Value | None, shape: Shape, strides: Shape | None = None) -> None:
        self.value: Any = value
        self.version = 0
        self.watched = False
        self.memory: Memory | None = None
        self.shape = shape
        self.strides = strides

    def foreign(self) -> Memory | None:
        """The memory, if others can still see it."""
        memory = self.memory
        if memory is not None and not memory.alive():
            self.value = memory.settle()
            self.version += 1  # who knows what was written
            rebindings.count += self.watched
            self.memory = memory = None
        return memory


class Kind(NamedTuple):
    """A shape and a dtype, where a tensor's value does not matter."""

    shape: Shape
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Move(NamedTuple):
    """One movement of a window: a primitive, its run-time operands, its parameters, what it
    gives, and all of that but the operands' values as an operation.
    """

    primitive: Primitive
    operands: tuple[Value, ...]
    parameters: dict[str, Any]
    shape: Shape
    operation: Operation

    @staticmethod
    def of(primitive: Primitive, x: Any, *operands: Value, **parameters: Any) -> Move:
        """The movement of something of `x`'s shape and dtype; errors come from the primitive's
        rule.
        """
        operation = call_of(primitive, (x, *operands), parameters)
        ((shape, _),) = operation.results
        return Move(primitive, operands, parameters, shape, operation)


def piece(value: Value, shape: Shape, offset: int) -> Value:
    """What lies in one piece in a known value's memory, from element `offset` on: no copy."""
    buffer, size = value.buffer, value.dtype.itemsize
    assert buffer is not None
    return Value(shape, value.dtype, buffer.part(offset * size, prod(shape) * size))


def moved(value: Value, moves: Sequence[Move]) -> Value:
    """What `moves` lead to from a value: one entry, but several in what is recorded to be looked
    at step by step.
    """
    here, line = recorder(), user_place()
    if modes.replay is None and len(moves) > 1:
        operands = [operand for move in moves for operand in move.operands]
        chain = chain_of(tuple([move.operation for move in moves]))
        return here.put(chain, [value, *operands], line)[0]
    for move in moves:
        (value,) = here.put(move.operation, (value, *move.operands), line)
    return value


def moves_along(view: Any) -> bool:
    """Whether the entry that reads a view may do its movements: nobody recorded them yet, and the
    value that they start from was just made. True once, for a view that is read again had better be
    recorded by itself.
    """
    cell = view._cell
    if (
        not view._moves
        or cell.memory is not None
        or cell.value.recorder is not recorder()
        or cell.version in (view._memo_version, view._moved_along)
        or modes.replay is not None
        or modes.body is not None
        or modes.grad
    ):
        return False
    view._moved_along = cell.version
    return True


def continued(edge: History, start: Any, moves: Sequence[Move]) -> History:
    """The history that continues `edge`, of something like `start`, through movements."""
    line = user_place()
    if modes.replay is None and len(moves) > 1 and not edge.ends:

        def operands() -> list[tuple[Any, ...]]:
            kinds = [start, *[Kind(move.shape, start.dtype) for move in moves]]
            return [(kind, *move.operands) for kind, move in zip(kinds, moves, strict=False)]

        backward = backward_of_chain(tuple([move.operation for move in moves]), operands)
        if backward is not None:
            others = [operand for move in moves for operand in move.operands]
            kept = [others[place - 1] for place in backward.keep]
            inputs = (edge, *[None] * len(others))
            after = Kind(moves[-1].shape, start.dtype)
            name = moves[-1].primitive.name
            return History(name, inputs, after, backward, kept, line)
    before = Kind(start.shape, start.dtype)
    for move in moves:
        after = Kind(move.shape, start.dtype)
        made = History.of_call(
            move.operation,
            (before, *move.operands),
            (None, *move.operands),
            (edge, *[None] * len(move.operands)),
            after,
            None,
            line,
        )
        assert made is not None
        edge, before = made, after
    return edge

"""Cells, which hold values, and movements, which lead from a cell to what a tensor shows.

Comes in: values, and memory that others can write. Goes out: what tensors are made of. Guaranteed:
a cell's value is immutable, and replaced by writes; memory that somebody else can see is read by
snapshots, until nobody does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from avalon.dtype import DType
from avalon.epoch import epoch
from avalon.graph.primitive import Primitive
from avalon.shape import Shape
from avalon.tracing.values import Value


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
    says that a replay relies on what the cell holds: rebinding it counts in `epoch`.
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
            epoch.count += self.watched
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
    gives.
    """

    primitive: Primitive
    operands: tuple[Value, ...]
    parameters: dict[str, Any]
    shape: Shape

    @staticmethod
    def of(primitive: Primitive, x: Any, *operands: Value, **parameters: Any) -> Move:
        """The movement of something of `x`'s shape and dtype; errors come from the primitive's
        rule.
        """
        shape, _ = primitive.infer((x, *operands), parameters)
        return Move(primitive, operands, parameters, shape)

"""Gradients that a step replaces, taken apart, so that new ones may lie where they lay.

Comes in: the old gradients, by the number of the tensor whose they are. Goes out: for each what it
was made of, with its memory, as long as that may be needed again: a step that fails puts everything
back. Guaranteed: a gradient that somebody else holds, or whose storage somebody shares, stays.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from avalon.dtype import DType
from avalon.rebinding import rebindings
from avalon.runtime.buffer import Buffer
from avalon.shape import Shape
from avalon.tensor.cell import Cell
from avalon.tensor.core import Tensor
from avalon.tracing.values import Value


class Retired(NamedTuple):
    """What a gradient was made of, and its memory."""

    type: type[Tensor]
    fields: dict[str, Any]
    version: int
    storage: tuple[Shape, Shape | None]
    shape: Shape
    dtype: DType
    buffer: Buffer

    def restore(self, cell: Cell | None = None, value: Value | None = None) -> Tensor:
        """An equal gradient, of the cell or the value if they are still there."""
        if cell is None:
            cell = Cell(value or Value(self.shape, self.dtype, self.buffer), *self.storage)
            cell.version = self.version
        made = object.__new__(self.type)
        made.__dict__.update(self.fields)
        made._cell = cell
        return made


Old = dict[int, Tensor | Retired]


def retire(gradients: list[tuple[int, Tensor]]) -> Old:
    """Take apart the gradients that nobody but this list holds, which is emptied."""
    owners: dict[Tensor, list[int]] = {}
    while gradients:
        number, gradient = gradients.pop()
        owners.setdefault(gradient, []).append(number)
        del gradient
    found: Old = {}
    while owners:
        gradient, numbers = owners.popitem()
        one: list[Tensor] = [gradient]
        del gradient
        taken = _take_apart(one)
        found.update(dict.fromkeys(numbers, taken))
    return found


def _take_apart(alone: list[Tensor]) -> Tensor | Retired:
    gradient = alone.pop()
    cell = gradient._cell
    value = cell.value
    if not _is_plain(gradient) or value is None or value.buffer is None:
        return gradient
    fields = dict(vars(gradient))
    del fields["_cell"]
    parts = Retired(
        type(gradient), fields, cell.version, (cell.shape, cell.strides), value.shape, value.dtype,
        value.buffer,
    )  # fmt: skip
    held, held_cell, held_value = weakref.ref(gradient), weakref.ref(cell), weakref.ref(value)
    del gradient, cell, value
    alive = held()
    if alive is not None:
        return alive
    if held_cell() is not None or held_value() is not None:
        return parts.restore(held_cell(), held_value())
    return parts


def _is_plain(gradient: Tensor) -> bool:
    """Whether a tensor is no more than its kind and its value."""
    return (
        not gradient._moves
        and not gradient._requires
        and gradient._history is None
        and gradient._leaf is None
        and gradient._base is None
        and gradient._grad is None
        and gradient._cell.memory is None
    )


def put_back(old: Old, tensors: Sequence[Tensor]) -> None:
    """Give the tensors their old gradients again."""
    whole: dict[int, Tensor] = {}  # by the id of what it was made from: some share one
    for number, one in old.items():
        if isinstance(one, Retired):
            if id(one) not in whole:
                whole[id(one)] = one.restore()
            tensors[number]._grad = whole[id(one)]
        else:
            tensors[number]._grad = one
    rebindings.count += 1


def spare_memory(old: Old, places: Mapping[int, int]) -> dict[int, Buffer]:
    """The memory of old gradients, each once, by the output that replaces it; `places` are the
    outputs by the number of the tensor that gets them as its gradient.
    """
    found: dict[int, Buffer] = {}
    used: set[int] = set()
    for number, one in old.items():
        place = places.get(number)
        if isinstance(one, Retired) and place is not None and one.buffer.address not in used:
            used.add(one.buffer.address)
            found[place] = one.buffer
    return found

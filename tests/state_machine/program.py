"""The random choices of one program.

Comes in: a seed, and PyTorch's world as it is. Goes out: instructions. Guaranteed: what is left out
is what PyTorch leaves undefined or does by accident; each such place says what.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from tests.state_machine.world import World, ask


class Program:
    """The random choices of one program. What it chooses depends on the shapes in PyTorch's
    world.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.instructions: list[tuple[Any, ...]] = []

    def number(self) -> float:
        return float(self.random.choice([-2, -1, 0.5, 2, 3]))

    def data(self, shape: tuple[int, ...]) -> Any:
        if not shape:
            return float(self.random.randint(-3, 3))
        return [self.data(shape[1:]) for _ in range(shape[0])]

    def shape(self) -> tuple[int, ...]:
        return tuple(
            self.random.randint(1, 3) for _ in range(self.random.choice([0, 1, 1, 2, 2, 3]))
        )

    def make(self) -> tuple[Any, ...]:
        if self.random.random() < 0.15:
            return ("from_numpy", self.data(self.shape()))
        dtype = self.random.choice(["float64"] * 6 + ["float32", "int64"])
        requires = dtype != "int64" and self.random.random() < 0.55
        return ("tensor", self.data(self.shape()), dtype, requires)

    def pick(self, world: World) -> int:
        """A tensor, a recent one more often than an old one."""
        count = len(world.tensors)
        return max(self.random.randrange(count), self.random.randrange(count))

    def next(self, world: World) -> tuple[Any, ...]:
        """Choose an instruction for the present state."""
        if len(world.tensors) < 2:
            return self.make()
        kinds = (
            (self.make, 1.0), (self.view, 4.0), (self.arithmetic, 3.5), (self.write, 4.5),
            (self.array, 1.0), (self.gradient, 4.0), (self.alias, 1.5),
        )  # fmt: skip
        chosen = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        made = chosen() if chosen == self.make else chosen(world)
        if made[0] not in ("backward", "grad") and self.random.random() < 0.12:
            return ("no_grad", made)
        return made

    def axis(self, tensor: Any) -> int:
        return self.random.randrange(-tensor.ndim, tensor.ndim) if tensor.ndim else 0

    def index(self, shape: tuple[int, ...], arrays: bool) -> Any:
        items: list[Any] = []
        axes = list(shape[: self.random.randint(0, len(shape))])
        for extent in axes:
            kind = self.random.random()
            if kind < 0.35:
                items.append(self.random.randrange(-extent, extent) if extent else 0)
            elif kind < 0.75 or not arrays:
                start = self.random.choice([None, 0, 1, -1])
                stop = self.random.choice([None, None, 1, 2, -1])
                items.append(slice(start, stop, self.random.choice([None, None, 2])))
            else:
                count = self.random.randint(1, 2)
                items.append(
                    [self.random.randrange(-extent, extent) for _ in range(count)] if extent else []
                )
        # where None stands beside an array, PyTorch's strides follow no rule that is written down
        if self.random.random() < 0.2 and not any(isinstance(item, list) for item in items):
            items.insert(self.random.randint(0, len(items)), None)
        if self.random.random() < 0.2:
            items.append(Ellipsis)
        if len(items) == 1 and self.random.random() < 0.7 and not isinstance(items[0], list):
            return items[0]
        return tuple(items)

    def view(self, world: World) -> tuple[Any, ...]:
        one = self.pick(world)
        tensor = world.tensors[one]
        if tensor is None:
            return self.make()
        shape = tuple(tensor.shape)
        choice = self.random.randrange(13)
        if choice < 4:
            return ("get", one, self.index(shape, False))
        if choice == 4:
            return ("view", "transpose", one, (self.axis(tensor), self.axis(tensor)))
        if choice == 5:
            order = list(range(len(shape)))
            self.random.shuffle(order)
            return ("view", "permute", one, (tuple(order),))
        if choice in (6, 7):
            name = self.random.choice(["view", "reshape"])
            return ("view", name, one, (self.resized(shape),))
        if choice == 8:
            return ("view", "unsqueeze", one, (self.random.randint(-1, len(shape)),))
        if choice == 9:
            name = self.random.choice(["squeeze", "flatten", "t", "view_as", "contiguous"])
            if name == "view_as":
                return ("view", "squeeze", one, (self.axis(tensor),))
            return ("view", name, one, ())
        if choice == 10:
            sizes = tuple(self.random.choice([2, -1]) if extent == 1 else -1 for extent in shape)
            extra = (2,) if self.random.random() < 0.4 else ()
            return ("view", "expand", one, ((*extra, *sizes),))
        if choice == 11:
            return ("view", "diagonal", one, (self.random.randint(-1, 1),))
        name = self.random.choice(["unbind", "split", "chunk"])
        arguments = () if name == "unbind" else (self.random.randint(1, 2),)
        return ("piece", name, one, arguments, self.random.randrange(3))

    def resized(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        total = int(np.prod(shape))
        options = [(-1,), (total,), (1, total), (total, 1), (2, -1), (3, -1), (-1, 2), shape]
        return self.random.choice(options)

    def arithmetic(self, world: World) -> tuple[Any, ...]:
        one, other = self.pick(world), self.pick(world)
        if _lost(world.tensors[one]) or _lost(world.tensors[other]):
            return self.make()
        choice = self.random.random()
        if choice < 0.5:
            names = ["__add__", "__sub__", "__mul__", "__mul__"]
            return ("binary", self.random.choice(names), one, other)
        if choice < 0.75:
            names = ["__add__", "__mul__", "__rsub__", "__truediv__"]
            name = self.random.choice(names)
            # what divides is a power of two, so that no order of sums rounds
            exact = name != "__truediv__" or self.random.choice([0.5, -2.0])
            return ("number", name, one, self.number() if exact is True else exact)
        if choice < 0.8:
            return ("number", "__pow__", one, 2)
        if choice < 0.87:
            tensor = world.tensors[one]
            shape = () if tensor is None else tuple(tensor.shape)
            return ("get", one, self.index(shape, True))
        if choice < 0.92:
            return ("get_mask", one, float(self.random.randint(-1, 1)))
        return ("unary", "sum" if _sums_exactly(world.tensors[one]) else "__neg__", one)

    def write(self, world: World) -> tuple[Any, ...]:
        one, other = self.pick(world), self.pick(world)
        tensor = world.tensors[one]
        shape = () if tensor is None else tuple(tensor.shape)
        choice = self.random.random()
        if choice < 0.3:
            name = self.random.choice(["add_", "mul_", "sub_", "copy_", "__iadd__"])
            if _odd(tensor, world.tensors[other]) or _tangled(tensor, world.tensors[other]):
                return self.make()
            return ("write", name, one, other)
        if choice < 0.5:
            name = self.random.choice(["add_", "mul_", "fill_", "__imul__"])
            if _repeats(tensor) and tensor.requires_grad:
                name = "add_"  # PyTorch fills, but then its backward raises
            return ("write_number", name, one, self.number())
        if choice < 0.55:
            if _repeats(tensor) and tensor.requires_grad:
                return self.make()
            return ("zero", one)
        if choice < 0.65:
            return ("data_write", self.random.choice(["data", "detach"]), one, self.number())
        if choice < 0.8:
            return ("set", one, self.index(shape, not _repeats(tensor)), self.number())
        if choice < 0.92:
            index = self.index(shape, not _repeats(tensor))
            source = world.tensors[other]
            if _odd(tensor, source) or _tangled(_window(tensor, index), source):
                return self.make()
            return ("set_tensor", one, index, other)
        if _repeats(tensor):
            return self.make()
        return ("set_mask", one, float(self.random.randint(-1, 1)), self.number())

    def array(self, world: World) -> tuple[Any, ...]:
        if not world.arrays or self.random.random() < 0.3:
            return ("numpy", self.pick(world))
        which = self.random.randrange(len(world.arrays))
        if self.random.random() < 0.25:
            return ("array_drop", which)
        return ("array_write", which, self.number())

    def gradient(self, world: World) -> tuple[Any, ...]:
        one = self.pick(world)
        choice = self.random.random()
        if choice < 0.4:
            return ("backward", one, self.random.random() < 0.5, self.random.random() < 0.1)
        if choice < 0.5:
            inputs = tuple({self.pick(world), self.pick(world)})
            return ("grad", one, inputs, self.random.random() < 0.4)
        if choice < 0.6:
            return ("requires", one, self.random.random() < 0.8)
        if choice < 0.64:
            return ("detach_", one)
        if choice < 0.72:
            return ("hook", one, self.number())
        if choice < 0.74 and world.hooks:
            return ("unhook", self.random.randrange(len(world.hooks)))
        if choice < 0.8:
            return ("retain", one)
        if choice < 0.86:
            return ("clear_grad", one)
        if choice < 0.9:
            return ("grad_write", one, self.number())
        if choice < 0.93:
            return ("take_grad", one)
        return ("step", one)

    def alias(self, world: World) -> tuple[Any, ...]:
        one, other = self.pick(world), self.pick(world)
        choice = self.random.random()
        if choice < 0.3:
            return ("unary", self.random.choice(["detach", "clone", "contiguous"]), one)
        if choice < 0.45:
            return ("data", one)
        if choice < 0.6:
            return ("deepcopy", one)
        if choice < 0.7:
            return ("deepcopy_pair", one, other)
        if choice < 0.8:
            return ("to", one, self.random.choice(["float64", "float32", "float64"]))
        if choice < 0.9:
            first, second = world.tensors[one], world.tensors[other]
            if first is None or second is None or not _alike(first, second):
                return ("data", other)  # PyTorch adds up gradients in the shape and dtype of before
            return ("set_data", one, other)
        return ("drop", one)


def _odd(target: Any, source: Any) -> bool:
    """PyTorch lets integer tensors require gradients once a float that does is written to them."""
    return (
        target is not None
        and source is not None
        and not target.is_floating_point()
        and source.requires_grad
    )


def _tangled(target: Any, source: Any) -> bool:
    """PyTorch reads what it has just written where operands overlap in ways that it does not
    see.
    """
    if target is None or source is None:
        return False
    if target.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
        return False
    return not (_is_dense(target) and _is_dense(source))


def _alike(first: Any, second: Any) -> bool:
    same = first.shape == second.shape and first.stride() == second.stride()
    return same and first.dtype == second.dtype


def _lost(tensor: Any) -> bool:
    """True for a view from `no_grad` of what requires gradients: PyTorch loses gradients there, and
    each of its operations keeps other values for a backward that reads none of them.
    """
    if tensor is None or not tensor._is_view() or not tensor.requires_grad:
        return False
    return ask(lambda: tensor.is_leaf) is not False


def _sums_exactly(tensor: Any) -> bool:
    """Sums are compared where no order of additions rounds."""
    if tensor is None or tensor.dtype != torch.float64:
        return False
    small = tensor.detach() * 1024
    return bool((small.abs() < 2**30).all() and (small == small.round()).all())


def _window(tensor: Any, index: Any) -> Any:
    """What an assignment to `tensor[index]` writes to."""
    try:
        window = None if tensor is None else tensor.detach()[index]
    except (IndexError, TypeError):
        return tensor
    shares = window is not None and window.untyped_storage().data_ptr() == (
        tensor.untyped_storage().data_ptr()
    )
    return window if shares else tensor


def _is_dense(tensor: Any) -> bool:
    expected = 1
    for step, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent != 1 and step != expected:
            return False
        expected *= extent
    return True


def _repeats(tensor: Any) -> bool:
    """PyTorch only warns when an expanded tensor is written through a mask or an index array."""
    return tensor is not None and 0 in tensor.stride()

"""Random programs over tensors, run on PyTorch and on Avalon side by side.

Comes in: a seed. Goes out: nothing, or a `Difference` that shows the program up to the first read
that differs. Guaranteed: a program is a list of plain instructions that depends on the seed only;
it is run once on both libraries, and once more on Avalon alone with reads, prints, garbage
collections and kept references put in between, which must change no bit.

PyTorch runs with saved tensors cloned when they are saved: so its backward, like ours, reads what
forward read, and its check that nothing was written since has nothing to complain about.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from typing import Any

import numpy as np
import torch

import avalon as av
from avalon.tensor import grad

ELEMENTS = 64


class Difference(AssertionError):
    """A read that differs, with the program that led to it."""


class Torch:
    """What the instructions need, from PyTorch."""

    name = "torch"
    dtypes = {"float64": torch.float64, "float32": torch.float32, "int64": torch.int64}
    tensor = staticmethod(torch.tensor)
    from_numpy = staticmethod(torch.from_numpy)
    no_grad = staticmethod(torch.no_grad)
    grad = staticmethod(torch.autograd.grad)


class Avalon:
    """The same from Avalon."""

    name = "avalon"
    dtypes = {"float64": av.float64, "float32": av.float32, "int64": av.int64}
    tensor = staticmethod(av.tensor)
    from_numpy = staticmethod(av.from_numpy)
    no_grad = staticmethod(av.no_grad)
    grad = staticmethod(grad)


class World:
    """One library's tensors, arrays and hook records while a program runs."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.tensors: list[Any] = []
        self.arrays: list[np.ndarray] = []
        self.seen: list[Any] = []  # what hooks were called with
        self.hooks: list[Any] = []
        self.versions: list[int] = []  # of each tensor when the program got it

    def do(self, instruction: tuple[Any, ...]) -> Any:
        """Run one instruction; returns what it made."""
        verb, *arguments = instruction
        guard = contextlib.nullcontext()
        if verb == "no_grad":
            guard = self.library.no_grad()
            verb, *arguments = arguments[0]
        with guard:
            return getattr(self, "do_" + verb)(*arguments)

    def add(self, tensor: Any) -> Any:
        self.tensors.append(tensor)
        self.versions.append(0 if tensor is None else tensor._version)
        return tensor

    # --- making
    # -------------------------------------------------------------------------------------

    def do_tensor(self, data: Any, dtype: str, requires: bool) -> Any:
        made = self.library.tensor(data, dtype=self.library.dtypes[dtype])
        if requires:
            made.requires_grad_()
        return self.add(made)

    def do_from_numpy(self, data: Any) -> Any:
        array = np.array(data, dtype=np.float64)
        self.arrays.append(array)
        return self.add(self.library.from_numpy(array))

    def do_unary(self, name: str, one: int) -> Any:
        return self.add(getattr(self.tensors[one], name)())

    def do_data(self, one: int) -> Any:
        return self.add(self.tensors[one].data)

    def do_deepcopy(self, one: int) -> Any:
        return self.add(copy.deepcopy(self.tensors[one]))

    def do_deepcopy_pair(self, one: int, other: int) -> Any:
        first, second = copy.deepcopy([self.tensors[one], self.tensors[other]])
        self.add(first)
        return self.add(second)

    def do_to(self, one: int, dtype: str) -> Any:
        return self.add(self.tensors[one].to(self.library.dtypes[dtype]))

    def do_set_data(self, one: int, other: int) -> None:
        self.tensors[one].data = self.tensors[other].detach()

    # --- views
    # ---------------------------------------------------------------------------------------

    def do_view(self, name: str, one: int, arguments: tuple[Any, ...]) -> Any:
        return self.add(getattr(self.tensors[one], name)(*arguments))

    def do_piece(self, name: str, one: int, arguments: tuple[Any, ...], which: int) -> Any:
        pieces = getattr(self.tensors[one], name)(*arguments)
        return self.add(pieces[which % len(pieces)])

    def do_get(self, one: int, index: Any) -> Any:
        return self.add(self.tensors[one][index])

    def do_get_mask(self, one: int, threshold: float) -> Any:
        tensor = self.tensors[one]
        return self.add(tensor[tensor.detach() > threshold])

    # --- arithmetic
    # ---------------------------------------------------------------------------------

    def do_binary(self, operator: str, one: int, other: int) -> Any:
        return self.add(getattr(self.tensors[one], operator)(self.tensors[other]))

    def do_number(self, operator: str, one: int, number: float) -> Any:
        return self.add(getattr(self.tensors[one], operator)(number))

    # --- writes
    # -------------------------------------------------------------------------------------

    def do_write(self, name: str, one: int, other: int) -> None:
        getattr(self.tensors[one], name)(self.tensors[other])

    def do_write_number(self, name: str, one: int, number: float) -> None:
        getattr(self.tensors[one], name)(number)

    def do_zero(self, one: int) -> None:
        self.tensors[one].zero_()

    def do_data_write(self, way: str, one: int, number: float) -> None:
        tensor = self.tensors[one]
        (tensor.data if way == "data" else tensor.detach()).mul_(number)

    def do_set(self, one: int, index: Any, value: Any) -> None:
        self.tensors[one][index] = value

    def do_set_tensor(self, one: int, index: Any, other: int) -> None:
        self.tensors[one][index] = self.tensors[other]

    def do_set_mask(self, one: int, threshold: float, value: float) -> None:
        tensor = self.tensors[one]
        tensor[tensor.detach() > threshold] = value

    # --- arrays
    # -------------------------------------------------------------------------------------

    def do_numpy(self, one: int) -> None:
        self.arrays.append(self.tensors[one].detach().numpy())

    def do_array_write(self, which: int, number: float) -> None:
        self.arrays[which][...] += number

    def do_array_drop(self, which: int) -> None:
        del self.arrays[which]

    # --- gradients
    # ----------------------------------------------------------------------------------

    def do_requires(self, one: int, wanted: bool) -> None:
        self.tensors[one].requires_grad_(wanted)

    def do_detach_(self, one: int) -> None:
        self.tensors[one].detach_()

    def do_backward(self, one: int, retain: bool, create: bool = False) -> None:
        tensor = self.tensors[one]
        ones = tensor.detach() * 0 + 1
        tensor.backward(ones, retain_graph=retain, create_graph=create)

    def do_grad(self, one: int, inputs: tuple[int, ...], create: bool) -> None:
        tensor = self.tensors[one]
        asked = [self.tensors[position] for position in inputs]
        ones = tensor.detach() * 0 + 1
        found = self.library.grad(
            tensor, asked, ones, retain_graph=True, create_graph=create, allow_unused=True
        )
        for gradient in found:  # in PyTorch, some of them may share their memory
            self.add(None if gradient is None else gradient.contiguous().clone())

    def do_hook(self, one: int, factor: float) -> None:
        def hook(gradient: Any) -> Any:
            self.seen.append(gradient.detach().clone())
            return gradient * factor

        tensor = self.tensors[one]
        try:
            self.hooks.append(tensor.register_hook(hook))
        except RuntimeError:
            if self.library is Torch:
                tensor._backward_hooks = None  # else the next attempt would not be refused
            raise

    def do_unhook(self, which: int) -> None:
        self.hooks[which].remove()

    def do_retain(self, one: int) -> None:
        self.tensors[one].retain_grad()

    def do_clear_grad(self, one: int) -> None:
        self.tensors[one].grad = None

    def do_grad_write(self, one: int, number: float) -> None:
        self.tensors[one].grad.mul_(number)

    def do_take_grad(self, one: int) -> Any:
        return self.add(self.tensors[one].grad)

    def do_step(self, one: int) -> None:
        tensor = self.tensors[one]
        with self.library.no_grad():
            tensor.sub_(tensor.grad, alpha=2)

    def do_drop(self, one: int) -> None:
        self.tensors[one] = self.library.tensor(0.0)
        self.versions[one] = 0

    # --- reading
    # ------------------------------------------------------------------------------------

    def read(self, position: int) -> tuple[Any, ...]:
        """All that a tensor shows, in forms that compare."""
        tensor = self.tensors[position]
        if tensor is None:
            return ("None",)
        gradient = None if not _ask(lambda: tensor.is_leaf or tensor.retains_grad) else tensor.grad
        return (
            *self.look(position),
            _elements(tensor),
            None if gradient is None else _elements(gradient),
        )

    def look(self, position: int) -> tuple[Any, ...]:
        """What a tensor shows without its value."""
        tensor = self.tensors[position]
        if tensor is None:
            return ("None",)
        return (
            tuple(tensor.shape),
            str(tensor.dtype).rpartition(".")[2],
            _strides(tensor),
            tensor.storage_offset() if tensor.numel() else 0,
            tensor.is_contiguous(),
            tensor.requires_grad,
            _ask(lambda: tensor.is_leaf),
            tensor._version - self.versions[position],
        )


def _ask(question: Any) -> Any:
    try:
        return question()
    except RuntimeError:
        return "error"


def _strides(tensor: Any) -> tuple[int, ...]:
    """The strides that matter."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return tuple(step if extent > 1 else 0 for step, extent in pairs) if tensor.numel() else ()


def _elements(tensor: Any) -> bytes:
    array = np.array(tensor.detach().tolist(), dtype=np.float64)
    return (array + 0.0).tobytes() + str(array.shape).encode()  # -0.0 and 0.0 are one here


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
    return _ask(lambda: tensor.is_leaf) is not False


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


def attempt(world: World, instruction: tuple[Any, ...]) -> Exception | None:
    """Run an instruction; returns the error if it raised."""
    count = len(world.tensors)
    try:
        world.do(instruction)
    except Exception as error:  # PyTorch and Avalon need only agree that there is one
        del world.tensors[count:], world.versions[count:]
        return error
    return None


_PACKED = torch.autograd.graph.saved_tensors_hooks


def _too_large(tensor: Any) -> bool:
    return tensor is not None and tensor.numel() > ELEMENTS


class Run:
    """One program, run on both libraries."""

    def __init__(self, seed: int, length: int) -> None:
        self.program = Program(seed)
        self.torch, self.avalon = World(Torch), World(Avalon)
        self.length = length
        self.errors = 0
        self.finished = False
        self.reads: list[tuple[Any, ...]] = []

    def __call__(self) -> None:
        with _PACKED(lambda saved: saved.clone(), lambda saved: saved):
            for _ in range(self.length):
                instruction = self.program.next(self.torch)
                self.program.instructions.append(instruction)
                first = attempt(self.torch, instruction)
                second = attempt(self.avalon, instruction)
                if (first is None) != (second is None):
                    self.fail(f"PyTorch: {first!r}\n  Avalon: {second!r}", second)
                self.errors += first is not None
                if first is not None and "second time" in str(first):
                    # PyTorch has by then added up part of the gradients, we none
                    self.program.instructions.pop()
                    return
                if self.torch.tensors and _too_large(self.torch.tensors[-1]):
                    break
                self.compare_looks()
                if self.program.random.random() < 0.15:
                    self.compare(self.program.pick(self.torch))
            self.compare_all()
            self.finished = True

    def compare_looks(self) -> None:
        for position in range(len(self.torch.tensors)):
            one, other = self.torch.look(position), self.avalon.look(position)
            if one != other:
                self.fail(f"tensor {position} looks {one} in PyTorch and {other} in Avalon")

    def compare(self, position: int) -> None:
        one, other = self.torch.read(position), self.avalon.read(position)
        self.reads.append(other)
        if one != other:
            self.fail(
                f"tensor {position} in PyTorch\n{self.torch.tensors[position]}\n"
                f"grad {_grad_of(self.torch, position)}\nand in Avalon\n"
                f"{self.avalon.tensors[position]}\ngrad {_grad_of(self.avalon, position)}"
            )

    def compare_all(self) -> None:
        for position in range(len(self.torch.tensors)):
            self.compare(position)
        for one, other in zip(self.torch.arrays, self.avalon.arrays, strict=True):
            if not np.array_equal(one, other):
                self.fail(f"an array is {one} in PyTorch and {other} in Avalon")
        if len(self.torch.seen) != len(self.avalon.seen):
            self.fail(f"hooks saw {self.torch.seen} in PyTorch and {self.avalon.seen} in Avalon")
        for one, other in zip(self.torch.seen, self.avalon.seen, strict=True):
            if _elements(one) != _elements(other):
                self.fail(f"a hook saw {one} in PyTorch and {other} in Avalon")

    def fail(self, message: str, error: Exception | None = None) -> None:
        lines = [f"seed {self.program.seed}: {message}"]
        lines += [f"    {number}. {i}" for number, i in enumerate(self.program.instructions)]
        raise Difference("\n".join(lines)) from error


def _grad_of(world: World, position: int) -> Any:
    tensor = world.tensors[position]
    return None if tensor is None else tensor.grad


def disturbed(run: Run, seed: int) -> list[tuple[Any, ...]]:
    """Run the program again on Avalon, with reads, prints and kept references in between."""
    choices = random.Random(seed)
    world = World(Avalon)
    kept: list[Any] = []
    for instruction in run.program.instructions:
        attempt(world, instruction)
        if world.tensors and choices.random() < 0.4:
            tensor = choices.choice(world.tensors)
            if tensor is not None:
                _disturb(tensor, choices, kept)
    return [world.read(position) for position in range(len(world.tensors))]


def _disturb(tensor: Any, choices: random.Random, kept: list[Any]) -> None:
    way = choices.randrange(7)
    if way == 0:
        tensor.tolist()
    elif way == 1:
        _ask(lambda: repr(tensor))
    elif way == 2:
        gc.collect(0)
    elif way == 3:
        kept.append(tensor.detach())
    elif way == 4:
        _ask(lambda: kept.append(tensor * 1))
    elif way == 5:
        av.synchronize()
    elif tensor.numel() == 1:
        tensor.item()


def judge(seed: int, length: int = 14) -> Run:
    """Run one program on both libraries and again with disturbances.

    Raises:
        Difference: a read differs.
    """
    run = Run(seed, length)
    run()
    if not run.finished:
        return run
    calm = run.reads[-len(run.avalon.tensors) :]
    if disturbed(run, seed) != calm:
        run.fail("reads, prints and kept references changed what Avalon computes")
    return run

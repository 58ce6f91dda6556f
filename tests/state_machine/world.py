"""What an instruction of a program does: the same on PyTorch and on Avalon.

Comes in: instructions, plain tuples of a verb and its arguments. Goes out: a `World`, one library's
tensors, arrays and hooks, and what they show in forms that compare.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import torch

import avalon as av
from avalon.tensor import grad


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
        gradient = None if not ask(lambda: tensor.is_leaf or tensor.retains_grad) else tensor.grad
        return (
            *self.look(position),
            elements(tensor),
            None if gradient is None else elements(gradient),
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
            ask(lambda: tensor.is_leaf),
            tensor._version - self.versions[position],
        )


def ask(question: Any) -> Any:
    try:
        return question()
    except RuntimeError:
        return "error"


def _strides(tensor: Any) -> tuple[int, ...]:
    """The strides that matter."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return tuple(step if extent > 1 else 0 for step, extent in pairs) if tensor.numel() else ()


def elements(tensor: Any) -> bytes:
    array = np.array(tensor.detach().tolist(), dtype=np.float64)
    return (array + 0.0).tobytes() + str(array.shape).encode()  # -0.0 and 0.0 are one here

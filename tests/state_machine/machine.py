"""Random programs over tensors, run on PyTorch and on Avalon side by side.

Comes in: a seed. Goes out: nothing, or a `Difference` that shows the program up to the first read
that differs. Guaranteed: a program is a list of plain instructions that depends on the seed only;
it is run once on both libraries, and once more on Avalon alone with reads, prints, garbage
collections and kept references put in between, which must change no bit.

PyTorch runs with saved tensors cloned when they are saved: so its backward, like ours, reads what
forward read, and its check that nothing was written since has nothing to complain about.
"""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import torch

import avalon as av
from tests.state_machine.program import Program
from tests.state_machine.world import Avalon, Torch, World, ask, elements

ELEMENTS = 64


class Difference(AssertionError):
    """A read that differs, with the program that led to it."""


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
            if elements(one) != elements(other):
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
        ask(lambda: repr(tensor))
    elif way == 2:
        gc.collect(0)
    elif way == 3:
        kept.append(tensor.detach())
    elif way == 4:
        ask(lambda: kept.append(tensor * 1))
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

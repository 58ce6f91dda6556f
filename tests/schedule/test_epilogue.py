"""What follows a contraction is computed inside it, and gives the bits of the plain schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.node import Node
from avalon.runtime.buffer import Buffer

Build = Callable[..., Sequence[Node]]


def _ran(build: Build, arrays: Sequence[np.ndarray], tier: str) -> tuple[list[str], list[bytes]]:
    """What the launches compute, and the outputs' bytes."""
    graph = Graph("test")
    inputs = [graph.input(a.shape, dtypes.by_name(a.dtype.name)) for a in arrays]
    graph.outputs = list(build(*inputs))
    program = compile_graph(graph, tier)
    buffers = program.run([Buffer.from_numpy(a) for a in arrays])
    results = [
        buffer.as_numpy(node.dtype, node.shape).tobytes()
        for buffer, node in zip(buffers, graph.outputs, strict=True)
    ]
    return [launch.note for launch in program.plan.launches], results


def _product(x: Node, w: Node) -> Any:
    y = ops.contract(*(ops.reshape(value, shape=(1, *value.shape)) for value in (x, w)))
    return ops.reshape(y, shape=y.shape[1:])


def _relu(x: Any) -> Any:
    return ops.maximum(x, x.constant(0))


def _linear(x: Node, w: Node, b: Node) -> list[Node]:
    y = _product(x, w)
    return [_relu(ops.add(y, ops.broadcast(b, shape=y.shape)))]


def _kept(x: Node, w: Node, b: Node) -> list[Node]:
    """The product itself is wanted, too, and read again."""
    y = _product(x, w)
    shifted = ops.add(y, ops.broadcast(b, shape=y.shape))
    return [_relu(shifted), ops.less(y, y.constant(0)), ops.reduce_sum(y, axes=(0,)), y]


def _sum_of_two(x: Node, w: Node, v: Node) -> list[Node]:
    return [ops.tanh(ops.add(_product(x, w), _product(x, v)))]


def _convolution(x: Node, w: Node, b: Node) -> list[Node]:
    one = (1,) * (len(x.shape) - 2)
    y = ops.convolve(
        *(ops.reshape(value, shape=(1, *value.shape)) for value in (x, w)), stride=one,
        input_dilation=one, kernel_dilation=one, low=one, high=one, flip=False,
    )  # fmt: skip
    y = ops.reshape(y, shape=y.shape[1:])
    spread = ops.reshape(b, shape=(*b.shape, *one))
    return [_relu(ops.add(y, ops.broadcast(spread, shape=y.shape)))]


def _grouped(x: Node, w: Node, b: Node) -> list[Node]:
    """[G, N, C, *S] with [G, O, C, *T], put in the order of images."""
    one = (1,) * (len(x.shape) - 3)
    y: Any = ops.convolve(
        x, w, stride=one, input_dilation=one, kernel_dilation=one, low=one, high=one, flip=False
    )
    groups, images, channels, *positions = y.shape
    y = ops.transpose(y, permutation=(1, 0, *range(2, len(y.shape))))
    y = ops.reshape(y, shape=(images, groups * channels, *positions))
    spread = ops.reshape(b, shape=(*b.shape, *one))
    return [_relu(ops.add(y, ops.broadcast(spread, shape=y.shape)))]


@pytest.mark.parametrize(
    ("build", "shapes", "launches"),
    [
        (_linear, [(100, 64), (64, 50), (50,)], 1),
        (_linear, [(100, 64), (64, 1), (1,)], 1),
        (_linear, [(1, 64), (64, 33), (33,)], 1),
        (_linear, [(3, 5000), (5000, 7), (7,)], 2),  # spans: their sums are added by a second
        (_kept, [(33, 64), (64, 50), (50,)], 2),
        (_sum_of_two, [(40, 30), (30, 20), (30, 20)], 2),
        (_convolution, [(4, 3, 9, 11), (20, 3, 3, 3), (20,)], 1),
        (_convolution, [(2, 3, 100), (5, 3, 3), (5,)], 1),
        (_grouped, [(3, 4, 2, 9, 11), (3, 5, 2, 3, 3), (15,)], 1),
        (_grouped, [(6, 4, 1, 9, 28), (6, 1, 1, 3, 3), (6,)], 1),
        (_grouped, [(5, 5, 2, 33), (5, 1, 2, 3), (5,)], 1),
        (_grouped, [(3, 2, 1, 4, 5, 40), (3, 2, 1, 3, 3, 3), (6,)], 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_epilogues(build: Build, shapes: Any, launches: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    notes, found = _ran(build, arrays, "hot")
    _, plain = _ran(build, arrays, "plain")
    assert found == plain
    assert len(notes) == launches, notes


def test_the_parts_of_a_result_with_holes_are_written_side_by_side() -> None:
    """No part waits for another."""
    graph = Graph("test")
    x, w = (graph.input(shape, dtypes.float32) for shape in ((1, 2, 3, 8, 8), (1, 5, 3, 4, 4)))
    graph.outputs = [
        ops.convolve(
            x, w, stride=(1, 1), input_dilation=(2, 2), kernel_dilation=(1, 1), low=(2, 2),
            high=(2, 2), flip=True,
        )
    ]  # fmt: skip
    for tier in ("hot", "cold"):
        program = compile_graph(graph, tier)
        assert len(program.plan.launches) == 4
        assert len(set(program.groups)) == 1


def test_a_reduction_that_follows_is_a_kernel_of_its_own() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("f") for shape in ((30, 64), (64, 50))]

    def build(x: Node, w: Node) -> list[Node]:
        return [ops.reduce_max(_product(x, w), axes=(1,))]

    notes, found = _ran(build, arrays, "hot")
    assert found == _ran(build, arrays, "plain")[1]
    assert len(notes) == 2


class _RandomGraph:
    """A contraction, and a few calls that follow it and each other."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("random")
        self.arrays: list[np.ndarray] = []
        values = [self.convolution() if seed % 2 else self.product()]
        for _ in range(int(self.rng.integers(1, 6))):
            values.append(self.follow(values))
        self.graph.outputs = [values[-1]]
        if self.rng.integers(0, 3) == 0:
            self.graph.outputs.append(values[int(self.rng.integers(0, len(values)))])

    def input(self, *shape: int) -> Any:
        self.arrays.append(self.rng.standard_normal(shape).astype("f"))
        return self.graph.input(shape, dtypes.float32)

    def product(self) -> Any:
        m, k, n = (int(extent) for extent in self.rng.integers(1, [40, 60, 50]))
        turned = ops.transpose(self.input(1, n, k), permutation=(0, 2, 1))
        y = ops.contract(self.input(1, m, k), turned)
        return ops.reshape(y, shape=(m, n)) if self.rng.integers(0, 2) else y

    def convolution(self) -> Any:
        depth, channels, size, images = (int(n) for n in self.rng.integers(1, [5, 20, 10, 4]))
        one = (1, 1)
        return ops.convolve(
            self.input(1, images, depth, size + 2, size + 3), self.input(1, channels, depth, 3, 3),
            stride=one, input_dilation=one, kernel_dilation=one, low=one, high=one, flip=False,
        )  # fmt: skip

    def follow(self, values: list[Any]) -> Any:
        x = values[int(self.rng.integers(0, len(values)))]
        match int(self.rng.integers(0, 7)):
            case 0:
                return ops.add(x, ops.broadcast(self.input(x.shape[-1]), shape=x.shape))
            case 1:
                return _relu(x)
            case 2:
                return ops.multiply(x, self.input(*x.shape))
            case 3:
                return ops.tanh(x)
            case 4:
                return ops.add(x, values[0]) if x.shape == values[0].shape else x
            case 5:
                return ops.reshape(x, shape=(int(np.prod(x.shape)),))
            case _:
                return ops.transpose(x, permutation=tuple(reversed(range(len(x.shape)))))


@pytest.mark.parametrize("seed", range(40))
def test_random_epilogues(seed: int) -> None:
    drawn = _RandomGraph(seed)
    found = []
    for tier in ("hot", "plain"):
        program = compile_graph(drawn.graph, tier)
        buffers = program.run([Buffer.from_numpy(a) for a in drawn.arrays])
        found.append(
            [
                buffer.as_numpy(node.dtype, node.shape).tobytes()
                for buffer, node in zip(buffers, drawn.graph.outputs, strict=True)
            ]
        )
    assert found[0] == found[1]

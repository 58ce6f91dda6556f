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


def test_a_reduction_that_follows_is_a_kernel_of_its_own() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("f") for shape in ((30, 64), (64, 50))]

    def build(x: Node, w: Node) -> list[Node]:
        return [ops.reduce_max(_product(x, w), axes=(1,))]

    notes, found = _ran(build, arrays, "hot")
    assert found == _ran(build, arrays, "plain")[1]
    assert len(notes) == 2

"""Pooling that follows a convolution is computed inside it, and gives the bits of the plain
schedule on every instruction set.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.node import Node
from avalon.runtime.buffer import Buffer
from avalon.schedule.index import Affine, Axis
from avalon.schedule.loops import Load
from avalon.schedule.windows import walk_of
from avalon.settings import settings

F = dtypes.float32

# (x, channels, taps, padding, window, stride)
CASES = [
    ((4, 3, 9, 11), 20, (3, 3), 1, (2, 2), (2, 2)),  # odd extents: the last row is in no window
    ((9, 16, 14, 14), 32, (3, 3), 1, (2, 2), (2, 2)),  # channels as lanes
    ((3, 40, 16, 16), 33, (3, 3), 1, (2, 4), (2, 4)),
    ((5, 3, 9, 9), 20, (2, 2), 0, (2, 3), (3, 3)),  # gaps between windows
    ((2, 3, 100), 5, (3,), 1, (2,), (3,)),
    ((1, 3, 6, 8, 8), 5, (3, 3, 3), 1, (2, 2, 2), (2, 2, 2)),
    ((2, 64, 33, 64), 40, (3, 3), 1, (2, 2), (2, 2)),  # several units an image
    ((2, 300, 6, 6), 7, (3, 3), 1, (2, 2), (2, 2)),  # sums in spans, joined by a second kernel
    ((2, 8, 4, 8), 7, (3, 3), 1, (4, 4), (4, 4)),  # a window takes in a whole axis
]


def _convolution(x: Node, w: Node, padding: int) -> Any:
    count = len(x.shape) - 2
    one, low = (1,) * count, (padding,) * count
    x, w = (ops.reshape(value, shape=(1, *value.shape)) for value in (x, w))
    y = ops.convolve(
        x, w, stride=one, input_dilation=one, kernel_dilation=one, low=low, high=low, flip=False
    )
    return ops.reshape(y, shape=y.shape[1:])


def _biased(y: Any, b: Node) -> Any:
    """y + b for each channel, and the relu of it."""
    spread = ops.reshape(b, shape=(*b.shape, *(1,) * (len(y.shape) - 2)))
    y = ops.add(y, ops.broadcast(spread, shape=y.shape))
    return ops.where(ops.less_equal(y, y.constant(0)), y.constant(0), y)


def _windows(x: Any, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    axes = tuple(range(2, 2 + len(sizes)))
    cut = ops.window(x, axes=axes, sizes=sizes, strides=strides, dilations=(1,) * len(sizes))
    return ops.reshape(cut, shape=(*cut.shape[: x.ndim], prod(sizes)))


def _largest(x: Any, sizes: tuple[int, ...], strides: tuple[int, ...]) -> list[Any]:
    """As max_pool records it, with where the largest stand and whether they are positive."""
    rows = _windows(x, sizes, strides)
    axis = rows.ndim - 1
    place = ops.argmax(rows, axis=axis)
    parameters = {"shape": rows.shape, "axis": axis, "dtype": dtypes.int64}
    positions = x.apply(ops.iota, (), parameters)
    lone = ops.reshape(place, shape=(*place.shape, 1))
    chosen = ops.equal(positions, ops.broadcast(lone, shape=rows.shape))
    found = ops.reduce_sum(ops.where(chosen, rows, x.constant(0, shape=rows.shape)), axes=(axis,))
    # Positions that only this program reads lie in bytes.
    return [found, ops.cast(place, dtype=dtypes.int8), ops.less(found.constant(0), found)]


def _run(graph: Graph, arrays: Sequence[np.ndarray], tier: str) -> tuple[list[str], list[bytes]]:
    program = compile_graph(graph, tier)
    buffers = program.run([Buffer.from_numpy(a) for a in arrays])
    results = [
        buffer.as_numpy(node.dtype, node.shape).tobytes()
        for buffer, node in zip(buffers, graph.outputs, strict=True)
    ]
    return [launch.note for launch in program.plan.launches], results


def _drawn(case: Any, dtype: str, seed: int = 0) -> tuple[Graph, list[Any], list[np.ndarray]]:
    """A graph with inputs x, w and b, and their values: small, so that many are equal."""
    shape, channels, taps, *_ = case
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(-2, 3, extents).astype(dtype)
        for extents in (shape, (channels, shape[1], *taps), (channels,))
    ]
    graph = Graph("pooled")
    return graph, [graph.input(a.shape, dtypes.by_name(dtype)) for a in arrays], arrays


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_largest_of_windows(case: Any, dtype: str) -> None:
    graph, (x, w, b), arrays = _drawn(case, dtype)
    _, _, _, padding, sizes, strides = case
    graph.outputs = _largest(_biased(_convolution(x, w, padding), b), sizes, strides)
    notes, found = _run(graph, arrays, "hot")
    assert found == _run(graph, arrays, "plain")[1]
    assert all(note.startswith("convolve") for note in notes), notes


@pytest.mark.parametrize("case", CASES)
def test_means_and_the_result_itself(case: Any) -> None:
    graph, (x, w, _), arrays = _drawn(case, "float32")
    _, _, _, padding, sizes, strides = case
    y = _convolution(x, w, padding)
    total = ops.reduce_sum(_windows(y, sizes, strides), axes=(y.ndim,))
    graph.outputs = [ops.tanh(total), y]
    notes, found = _run(graph, arrays, "hot")
    assert found == _run(graph, arrays, "plain")[1]
    assert all(note.startswith("convolve") for note in notes), notes


@pytest.mark.parametrize("target", ["avx2", "x86"])
@pytest.mark.parametrize("case", CASES[:4])
def test_other_instruction_sets(case: Any, target: str) -> None:
    graph, (x, w, b), arrays = _drawn(case, "float32")
    _, _, _, padding, sizes, strides = case
    graph.outputs = _largest(_biased(_convolution(x, w, padding), b), sizes, strides)
    expected = _run(graph, arrays, "plain")[1]
    before = settings.target
    settings.target = target
    try:
        found = _run(graph, arrays, "hot")[1]
    finally:
        settings.target = before
    assert found == expected  # whole numbers: also without fused multiply-add


@pytest.mark.parametrize("case", CASES[:2])
def test_special_values(case: Any) -> None:
    graph, (x, w, b), arrays = _drawn(case, "float32")
    _, _, _, padding, sizes, strides = case
    arrays[2][:4] = np.nan, np.inf, -np.inf, -0.0
    arrays[0].flat[::7] = np.nan
    graph.outputs = _largest(_biased(_convolution(x, w, padding), b), sizes, strides)
    assert _run(graph, arrays, "hot")[1] == _run(graph, arrays, "plain")[1]


def test_windows_that_overlap_are_a_kernel_of_their_own() -> None:
    case = ((2, 3, 9, 9), 4, (3, 3), 1, (3, 3), (2, 2))
    graph, (x, w, b), arrays = _drawn(case, "float32")
    graph.outputs = _largest(_biased(_convolution(x, w, 1), b), (3, 3), (2, 2))
    notes, found = _run(graph, arrays, "hot")
    assert found == _run(graph, arrays, "plain")[1]
    assert len(notes) == 2


def test_walks() -> None:
    shape = (1, 2, 3, 8, 6)
    rows, images, lanes = Axis(0, 24), Axis(1, 2), Axis(2, 3)

    def walk(axes: list[Axis], terms: dict[Any, int], *offsets: int) -> Any:
        return walk_of(shape, axes, [Load(0, F, Affine(dict(terms), at), ()) for at in offsets])

    joined = walk([rows, lanes], {rows: 12, lanes: 2}, 0, 1, 6, 7)
    assert joined is not None
    assert joined.extents == (1, 2, 3, 4, 3)
    assert joined.steps == (1, 1, 1, 2, 2)
    assert joined.groups == ((0, 1, 2, 3), (4,))
    assert walk([rows, lanes], {rows: 12, lanes: 2}, 0, 2) is None  # the next window's element
    assert walk([rows, lanes], {rows: 12, lanes: 2}, 12) is None
    assert walk([images, lanes], {images: 144, lanes: 2}, 0) is None  # not all channels
    assert walk([rows, lanes], {rows: 12}, 0) is None


@pytest.mark.parametrize("special", [None, np.nan, -0.0])
def test_where_the_largest_stand_may_be_put_out_too(special):
    """As forward does that keeps them for a backward pass: one kernel finds place and element."""
    graph = Graph("kept")
    x = graph.input((2, 3, 8, 8), F)
    found = _largest(x, (2, 2), (2, 2))[0]
    chosen = found.operands[0].operands[0]
    graph.outputs = [found, chosen]
    values = np.random.default_rng(0).integers(-2, 3, x.shape).astype("float32")
    if special is not None:
        values[values == 0] = special
    notes, hot = _run(graph, [values], "hot")
    assert hot == _run(graph, [values], "plain")[1]
    assert len(notes) == 2
    assert notes[0].count("argmax") == notes[0].count("reduce_sum") == 1

"""What is put side by side twice is written once, in boxes, with the bits of two copies."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.codegen.target import host
from avalon.compiler import plan_graph
from avalon.graph.graph import Graph
from avalon.schedule.hot import schedule_hot
from avalon.switches import without
from tests.schedule.test_same_bits import run


def reflected(x, axis, low, high):
    """x with `low` and `high` elements reflected at the ends of an axis."""

    def piece(start, length):
        starts = tuple(start if a == axis else 0 for a in range(x.ndim))
        sizes = tuple(length if a == axis else n for a, n in enumerate(x.shape))
        return ops.reverse(
            ops.slice(x, starts=starts, sizes=sizes, steps=(1,) * x.ndim), axes=(axis,)
        )

    last = x.shape[axis] - 1 - high
    return ops.concatenate(piece(1, low), x, piece(last, high), axis=axis)


def padded(shape, amounts, dtype=dtypes.float32):
    """A graph that reflects the last axes, the first of them first."""
    graph = Graph("padded")
    y = graph.input(shape, dtype)
    for number, (low, high) in enumerate(amounts):
        y = reflected(y, len(shape) - len(amounts) + number, low, high)
    graph.outputs.append(y)
    return graph


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int8, dtypes.float64])
@pytest.mark.parametrize(
    ("shape", "amounts"),
    [
        ((2, 9, 17), [(3, 2), (1, 5)]),
        ((3, 6, 5, 7), [(2, 2), (4, 1), (6, 3)]),
        ((4, 33), [(1, 3), (20, 7)]),
    ],
)
def test_reflected_on_several_axes(shape, amounts, dtype):
    x = np.random.default_rng(0).integers(-90, 90, shape).astype(dtype.storage)
    graph = padded(shape, amounts, dtype)
    expected = np.pad(x, [(0, 0)] * (len(shape) - len(amounts)) + amounts, mode="reflect")
    for tier in ("plain", "cold", "hot"):
        np.testing.assert_array_equal(run(graph, tier, [x])[0], expected)


def test_nothing_is_stored_between_and_no_part_waits_for_another():
    graph = padded((4, 8, 16, 16), [(3, 3), (3, 3)])
    plan = plan_graph(graph, "hot", host())
    assert [spec.role for spec in plan.buffers] == ["input", "output"]
    assert len(plan.launches) == 9
    assert all(launch.window for launch in plan.launches)
    steps = schedule_hot(graph).steps
    assert not any("where" in step.nest.text or " if " in step.nest.text for step in steps)
    with without("nest concatenations"):
        assert len(plan_graph(graph, "hot", host()).buffers) > 2


def test_a_part_that_others_read_is_stored():
    graph = Graph("shared")
    a, b = graph.input((5, 4), dtypes.float32), graph.input((3, 4), dtypes.float32)
    inner = ops.concatenate(a, b, axis=0)
    graph.outputs += [ops.concatenate(inner, inner, axis=1), ops.exp(inner)]
    x = [
        np.random.default_rng(i).random(shape, np.float32)
        for i, shape in enumerate([(5, 4), (3, 4)])
    ]
    for plain, hot in zip(run(graph, "plain", x), run(graph, "hot", x), strict=True):
        np.testing.assert_array_equal(plain, hot)


def test_what_is_computed_before_it_is_joined_is_computed_in_place():
    graph = Graph("halves")
    a, b = graph.input((64, 40), dtypes.float32), graph.input((64, 24), dtypes.float32)
    graph.outputs.append(ops.concatenate(ops.exp(a), ops.tanh(b), axis=1))
    plan = plan_graph(graph, "hot", host())
    assert [spec.role for spec in plan.buffers] == ["input", "input", "output"]
    x = [np.random.default_rng(i).random((64, n), np.float32) for i, n in enumerate((40, 24))]
    np.testing.assert_array_equal(run(graph, "hot", x)[0], run(graph, "plain", x)[0])

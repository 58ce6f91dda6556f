"""Copies that turn axes go down in strips, so that lines of the cache are read once."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.schedule.hot import schedule_hot
from tests.schedule.test_same_bits import run


def turned(shape, permutation):
    graph = Graph("turned")
    x = graph.input(shape, dtypes.float32)
    y = graph.input(tuple(shape[axis] for axis in permutation), dtypes.float32)
    graph.outputs.append(ops.add(ops.exp(ops.transpose(x, permutation=permutation)), y))
    return graph


@pytest.mark.parametrize(
    ("shape", "permutation"),
    [
        ((64, 48), (1, 0)),
        ((3, 64, 80), (0, 2, 1)),
        ((2, 32, 5, 96), (0, 3, 2, 1)),
        ((5, 37, 41), (0, 2, 1)),
        ((16, 96), (1, 0)),
        ((4, 33, 64), (2, 0, 1)),
    ],
)
def test_turned_copies_have_equal_bits(shape, permutation):
    graph = turned(shape, permutation)
    generator = np.random.default_rng(0)
    x = [generator.random(node.shape, np.float32) for node in graph.inputs]
    for tier in ("cold", "hot"):
        np.testing.assert_array_equal(run(graph, tier, x)[0], run(graph, "plain", x)[0])


@pytest.mark.parametrize(
    ("shape", "after"),
    [
        ((128, 256), (256 * 128,)),  # both loops belong to one axis of the result
        ((64, 48), (2, 24 * 64)),
        ((3, 64, 80), (3, 80 * 64)),
        ((128, 96), (96, 4, 32)),
    ],
)
def test_turned_copies_of_other_axes_have_equal_bits(shape, after):
    graph = Graph("turned")
    x = graph.input(shape, dtypes.float32)
    axes = range(len(shape))
    y = ops.transpose(x, permutation=(*axes[:-2], axes[-1], axes[-2]))
    graph.outputs.append(ops.exp(ops.reshape(y, shape=after)))
    values = [np.random.default_rng(0).random(shape, np.float32)]
    for tier in ("cold", "hot"):
        np.testing.assert_array_equal(run(graph, tier, values)[0], run(graph, "plain", values)[0])


def test_strips_go_down_the_axis_that_is_read_in_lines():
    (step,) = schedule_hot(turned((3, 64, 80), (0, 2, 1))).steps
    extents = [axis.extent for axis in (*step.nest.units, *step.nest.stages[0].axes)]
    assert extents == [3, 4, 80, 16]


def test_copies_in_order_stay_one_loop():
    graph = Graph("copy")
    x = graph.input((64, 80), dtypes.float32)
    graph.outputs.append(ops.exp(x))
    (step,) = schedule_hot(graph).steps
    assert len(step.nest.stages[0].axes) + len(step.nest.units) == 1

"""Kernels that do all of a row: what one stage has computed, the next ones read back."""

from __future__ import annotations

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.schedule.hot import schedule_hot
from tests.schedule.test_same_bits import run


def standardized(shape):
    """Rows with mean 0 and variance 1."""
    graph = Graph("standardized")
    x = graph.input(shape, dtypes.float32)

    def mean(value):
        total = ops.reduce_sum(value, axes=(1,))
        scaled = ops.divide(total, graph.constant(float(shape[1]), total.shape, dtypes.float32))
        return ops.broadcast(ops.reshape(scaled, shape=(shape[0], 1)), shape=shape)

    distance = ops.subtract(x, mean(x))
    graph.outputs.append(ops.divide(distance, ops.sqrt(mean(ops.multiply(distance, distance)))))
    return graph


def test_a_row_is_reduced_once_and_then_vectorised():
    graph = standardized((64, 300))
    (step,) = schedule_hot(graph).steps
    reducing, writing = step.nest.stages
    assert not reducing.lanes
    assert writing.lanes  # it would not be, if it reduced the row again
    x = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
    np.testing.assert_array_equal(run(graph, "hot", [x])[0], run(graph, "plain", [x])[0])


def test_rows_that_turn_out_to_be_parts_of_longer_ones():
    graph = Graph("parts")
    x = graph.input((5, 70, 70), dtypes.float32)
    place = ops.reshape(ops.argmax(x, axis=2), shape=(5, 70, 1))
    largest = ops.gather(x, place, axis=2)
    shown = ops.reshape(ops.negative(largest), shape=(5, 70, 1, 1))
    graph.outputs = [shown, ops.reduce_sum(largest, axes=(1, 2)), place]
    given = np.random.default_rng(0).standard_normal((5, 70, 70)).astype(np.float32)
    for hot, plain in zip(run(graph, "hot", [given]), run(graph, "plain", [given]), strict=True):
        np.testing.assert_array_equal(hot, plain)

"""Divisions of a flattened axis, seen through where all lanes of a strip do them alike."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.codegen.lanes import Lanes, lane_parts
from avalon.graph.graph import Graph
from avalon.schedule.index import Axis, divide, variable
from tests.schedule.test_same_bits import run

AXIS = Axis(0, 4096)


def lanes(count=16, aligned=True):
    return Lanes(AXIS.bits, AXIS, count, None, aligned)


def row_and_column(width, shift=0):
    return divide(variable(AXIS).plus(shift), width, split=False)


def test_rows_as_wide_as_a_strip_have_one_number_and_neighbouring_columns():
    row, column = row_and_column(48)
    assert lane_parts(row, lanes()) == (0, [])
    assert lane_parts(column, lanes()) == (1, [])
    again = divide(row, 5, split=False)
    assert [lane_parts(one, lanes())[0] for one in again] == [0, 0]


@pytest.mark.parametrize(
    ("width", "shift", "view"),
    [(49, 0, lanes()), (48, 1, lanes()), (48, 0, lanes(aligned=False)), (48, 0, lanes(32))],
)
def test_strips_that_cross_rows_follow_no_step(width, shift, view):
    for form in row_and_column(width, shift):
        assert lane_parts(form, view)[1]


@pytest.mark.parametrize("spatial", [(8, 8), (7, 7), (5, 32), (4, 48)])
def test_channels_behind_a_flattened_axis(spatial):
    # One weight a channel inside a sum over channels and space, as in group normalisation.
    shape = (6, 4, *spatial)
    graph = Graph("weighted")
    x, weight = graph.input(shape, dtypes.float32), graph.input((4,), dtypes.float32)
    column = graph.input(spatial[-1:], dtypes.float32)
    scaled = ops.multiply(x, ops.broadcast(ops.reshape(weight, shape=(1, 4, 1, 1)), shape=shape))
    shifted = ops.add(
        scaled, ops.broadcast(ops.reshape(column, shape=(1, 1, 1, spatial[-1])), shape=shape)
    )
    graph.outputs.append(ops.reduce_sum(shifted, axes=(1, 2, 3)))
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(node.shape).astype(np.float32) for node in graph.inputs]
    (plain,) = run(graph, "plain", given)
    for tier in ("cold", "hot"):
        np.testing.assert_array_equal(run(graph, tier, given)[0], plain)
    np.testing.assert_allclose(
        plain, (given[0] * given[1][:, None, None] + given[2]).sum((1, 2, 3)), 1e-3, 1e-3
    )

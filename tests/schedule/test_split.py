"""Long reductions to few results: two steps, the bits of one."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.graph.graph import Graph
from avalon.schedule.hot import schedule_hot
from avalon.schedule.split import splits
from tests.schedule.test_order import summed_as_documented
from tests.schedule.test_same_bits import run

# Rows and columns; blocks that come out even and do not; kept axes in front, between and behind.
CASES = [
    ((1024, 512), (0, 1)),
    ((150_001,), (0,)),
    ((2, 140_003), (1,)),
    ((7, 60_000, 2), (0, 1)),
    ((150_000, 3), (0,)),
    ((5, 3, 70_000), (0, 2)),
]


def reduction(name, shape, axes, dtype=dtypes.float32):
    graph = Graph("long")
    x = graph.input(shape, dtype)
    graph.outputs.append(getattr(ops, name)(ops.multiply(x, x), axes=axes))
    return graph


@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("name", ["reduce_sum", "reduce_max", "reduce_product"])
def test_two_steps_have_the_bits_of_one(name, shape, axes):
    graph = reduction(name, shape, axes)
    assert splits(graph.outputs[0])
    x = np.random.default_rng(0).uniform(0.9, 1.1, shape).astype(np.float32)
    x.flat[::10_007] *= -1
    (plain,) = run(graph, "plain", [x])
    for tier in ("cold", "hot"):
        (found,) = run(graph, tier, [x])
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("shape", "axes"), CASES[1:3])
def test_the_order_is_the_documented_one(shape, axes):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (found,) = run(reduction("reduce_sum", shape, axes), "hot", [x])
    np.testing.assert_array_equal(found, summed_as_documented(x * x, axes))


def test_halves_are_summed_wide():
    graph = reduction("reduce_sum", (150_001,), (0,), dtypes.float16)
    x = np.ones(150_001, np.float16) / 16
    found = [run(graph, tier, [x])[0] for tier in ("plain", "hot")]
    assert found[0] == found[1] == np.float16(150_001 / 256)


def test_blocks_are_units_of_work():
    first, second = schedule_hot(reduction("reduce_sum", (4096, 1024), (0, 1))).steps
    assert first.work > 100
    assert second.work == 1


def test_many_results_and_short_ones_stay_one_step():
    assert not splits(reduction("reduce_sum", (64, 100_000), (1,)).outputs[0])
    assert not splits(reduction("reduce_sum", (300, 300), (0, 1)).outputs[0])

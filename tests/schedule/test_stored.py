"""Which values a program stores, when it makes them, and what that takes."""

from __future__ import annotations

import numpy as np
import pytest

import avalon as av
from avalon import dtype as dtypes, nn, ops
from avalon.graph.graph import Graph
from avalon.schedule.fusion import Decision
from avalon.schedule.hot import schedule_hot
from tests.schedule.test_same_bits import run


def normalized_and_read_thrice(operations):
    """A product, less its mean in each column, scaled; read by sums of two kinds and by a relu."""
    graph = Graph("normalized")
    x = graph.input((1, 64, 32), dtypes.float32)
    weight = graph.input((1, 32, 48), dtypes.float32)
    product = ops.reshape(ops.contract(x, weight), shape=(64, 48))
    mean = ops.reduce_max(product, axes=(0,))
    scaled = product
    for _ in range(operations):
        wide = ops.broadcast(ops.reshape(mean, shape=(1, 48)), shape=(64, 48))
        scaled = ops.multiply(ops.subtract(scaled, wide), wide)
    zero = graph.constant(0.0, scaled.shape, dtypes.float32)
    graph.outputs = [
        ops.where(ops.less_equal(scaled, zero), zero, scaled),
        ops.reduce_sum(ops.multiply(scaled, product), axes=(0,)),
        ops.reduce_max(scaled, axes=(1,)),
    ]
    return graph, scaled


@pytest.mark.parametrize(("operations", "stored"), [(1, False), (4, True)])
def test_what_is_near_a_stored_value_is_computed_again(operations, stored):
    graph, scaled = normalized_and_read_thrice(operations)
    assert (scaled in Decision(graph).stored) is stored
    generator = np.random.default_rng(0)
    given = [
        generator.normal(size=shape).astype(np.float32) for shape in ((1, 64, 32), (1, 32, 48))
    ]
    for hot, plain in zip(run(graph, "hot", given), run(graph, "plain", given), strict=True):
        np.testing.assert_array_equal(hot, plain)


def test_what_is_small_and_needs_nothing_comes_first():
    graph = Graph("late rate")
    x = graph.input((1, 300, 300), dtypes.float32)
    rate = graph.input((8,), dtypes.float32)
    product = ops.contract(x, x)
    other = ops.contract(product, x)
    small = ops.reduce_sum(ops.exp(rate), axes=(0,))
    graph.outputs = [other, ops.multiply(product, ops.broadcast(small, shape=product.shape)), small]
    steps = schedule_hot(graph).steps
    assert steps[0].nodes == (small,)


def test_arenas_of_normalized_networks_hold_each_activation_once():
    """A convolution's result, and the one of the relu behind it: not what lies between."""
    net = nn.Sequential(
        *[
            layer
            for _ in range(6)
            for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        ]
    )
    x = av.ones(4, 8, 32, 32)

    @av.compile
    def step(x):
        net.zero_grad()
        net(x).sum().backward()

    for _ in range(3):
        step(x)
    activation = 4 * 4 * 8 * 32 * 32
    assert step.program.arena_bytes < 16 * activation


@pytest.mark.parametrize("length", [63, 64, 70, 200])
def test_an_address_may_be_the_place_of_the_largest(length):
    generator = np.random.default_rng(length)
    array = generator.normal(size=(5, 40, length)).astype(np.float32)

    @av.compile
    def largest(x):
        return x.gather(2, x.argmax(2, keepdim=True))

    for _ in range(3):
        found = largest(av.tensor(array)).numpy()
        np.testing.assert_array_equal(found, array.max(2, keepdims=True))

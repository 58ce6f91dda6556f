"""Law: plain, cold and hot tier, any number of threads and any vector width give the same bits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.differentiation import gradients
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from tests.schedule.random_graphs import Maker, values


def run(graph, tier, given_values):
    """The bytes of all outputs of a compiled graph."""
    inputs = [
        x if node.scalar else Buffer.from_numpy(np.ascontiguousarray(x, node.dtype.storage))
        for x, node in zip(given_values, graph.inputs, strict=True)
    ]
    outputs = compile_graph(graph, tier).run(inputs)
    return [
        np.array(found.as_numpy(node.dtype, node.shape))
        for found, node in zip(outputs, graph.outputs, strict=True)
    ]


def assert_same(first, second, graph):
    for position, (a, b) in enumerate(zip(first, second, strict=True)):
        bits = np.uint32 if a.dtype == np.float32 else np.uint64
        same = (a.view(bits) == b.view(bits)) | ((a != a) & (b != b))
        assert np.all(same), (graph.name, position, graph.outputs[position])


@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=strategies.integers(0, 1 << 30), size=strategies.integers(3, 40))
def test_tiers_agree(seed, size):
    graph = Maker(seed, dtypes.float32).grow(size)
    inputs = values(graph, seed)
    plain = run(graph, "plain", inputs)
    assert_same(plain, run(graph, "cold", inputs), graph)
    assert_same(plain, run(graph, "hot", inputs), graph)


@hypothesis_settings(max_examples=10, deadline=None)
@given(seed=strategies.integers(0, 1 << 30), size=strategies.integers(3, 25))
def test_tiers_agree_on_gradients(seed, size):
    graph = Maker(seed, dtypes.float32).grow(size)
    sums = [ops.reduce_sum(x, axes=tuple(range(x.ndim))) if x.ndim else x for x in graph.outputs]
    loss = sums[0]
    for other in sums[1:]:
        loss = ops.add(loss, other)
    leaves = [x for x in graph.inputs if not x.scalar]
    found = gradients(graph, [loss], leaves)
    graph.outputs = [loss, *(gradient for gradient in found if gradient is not None)]
    inputs = values(graph, seed)
    plain = run(graph, "plain", inputs)
    assert_same(plain, run(graph, "cold", inputs), graph)
    assert_same(plain, run(graph, "hot", inputs), graph)


@pytest.mark.parametrize("seed", range(6))
def test_plain_tier_is_the_meaning(seed):
    graph = Maker(seed, dtypes.float64).grow(12)
    inputs = values(graph, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = interpret(graph, inputs)
    for found, wanted in zip(run(graph, "plain", inputs), expected, strict=True):
        finite = np.isfinite(wanted) & (np.abs(wanted) < 1e100)
        np.testing.assert_allclose(found[finite], wanted[finite], 1e-7, 1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("target", ["", "avx2", "x86"])
def test_threads_and_vector_widths_agree(threads, target):
    graph = Maker(11, dtypes.float32).grow(30)
    inputs = values(graph, 11)
    expected = run(graph, "hot", inputs)
    before = settings.threads, settings.target
    settings.threads, settings.target = threads, target
    try:
        found = run(graph, "hot", inputs)
    finally:
        settings.threads, settings.target = before
    if target != "x86":  # which has no fused multiply-add
        assert_same(expected, found, graph)


@pytest.mark.parametrize("target", ["avx512", "avx2", "x86"])
@pytest.mark.parametrize("name", ["tanh", "expm1", "erf", "floor"])
def test_a_scalar_rounded_to_half_needs_no_library(target, name):
    graph = Graph("rounded")
    x = graph.input((), dtypes.float64, scalar=True)
    half = ops.cast(getattr(ops, name)(x), dtype=dtypes.float16)
    graph.outputs = [ops.broadcast(ops.cast(half, dtype=dtypes.float64), shape=(3,))]
    before = settings.target
    settings.target = target
    try:
        (found,) = run(graph, "hot", [-0.75])
    finally:
        settings.target = before
    (expected,) = interpret(graph, [-0.75])
    np.testing.assert_allclose(found, expected, 1e-3)

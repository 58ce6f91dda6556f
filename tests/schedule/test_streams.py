"""Results larger than the caches are written past them, in whole lines, with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.codegen.target import host, named
from avalon.compiler import plan_graph
from avalon.graph.graph import Graph
from tests.schedule.test_same_bits import run


def filled(shape):
    """A graph whose rows all hold the same."""
    graph = Graph("filled")
    row = graph.input((1, shape[1]), dtypes.float32)
    graph.outputs.append(ops.broadcast(row, shape=shape))
    return graph


@pytest.mark.parametrize("columns", [1024, 1000, 2053])
def test_results_that_no_cache_holds_are_written_past_them(columns):
    rows = (25 << 20) // (4 * columns)
    row = np.random.default_rng(0).random((1, columns), np.float32)
    graph = filled((rows, columns))
    (kernel,) = plan_graph(graph, "hot", host()).kernels.values()
    whole = rows * columns % 16 == 0
    assert ("past the caches" in kernel.loops) is whole
    if host().has_streams:
        assert ("!nontemporal" in kernel.text) is (columns % 16 == 0 and whole)
        assert ("sfence" in kernel.text) is ("!nontemporal" in kernel.text)
    made, expected = run(graph, "hot", [row])[0], run(graph, "plain", [row])[0]
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("target", "streams"), [("x86", True), ("avx2", True), ("avx512", True), ("neon", False)]
)
def test_targets_without_such_stores_write_as_usual(target, streams):
    plan = plan_graph(filled(((25 << 20) // 4096, 1024)), "hot", named(target))
    (kernel,) = plan.kernels.values()
    assert ("!nontemporal" in kernel.text) is streams
    assert ("sfence" in kernel.text) is streams


def test_results_that_a_cache_holds_are_kept_there():
    (kernel,) = plan_graph(filled((512, 1024)), "hot", host()).kernels.values()
    assert "nontemporal" not in kernel.text

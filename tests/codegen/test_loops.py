"""Kernels from loop nests: what they look like, and what they share."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.codegen.target import named
from avalon.compiler import compile_graph, plan_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer


def adding(shape):
    graph = Graph("adding")
    x, y = graph.input(shape, dtypes.float32), graph.input(shape, dtypes.float32)
    graph.outputs = [ops.add(x, y)]
    return graph


def test_cold_kernels_serve_every_shape():
    target = named("")
    first = plan_graph(adding((3, 5)), "cold", target)
    second = plan_graph(adding((2, 7, 9)), "cold", target)
    assert first.kernels.keys() == second.kernels.keys()
    assert first.launches[0].arguments != second.launches[0].arguments


def test_a_contiguous_call_is_one_flat_loop():
    plan = plan_graph(adding((4, 5, 6)), "hot", named(""))
    (kernel,) = plan.kernels.values()
    assert "lanes i2 < 120:" in kernel.loops


def test_a_chain_is_one_kernel_and_its_loops_can_be_read():
    graph = adding((8, 16))
    graph.outputs = [ops.tanh(ops.multiply(graph.outputs[0], graph.outputs[0]))]
    plan = plan_graph(graph, "hot", named(""))
    assert len(plan.launches) == 1
    (kernel,) = plan.kernels.values()
    assert "tanh" in kernel.loops
    assert "multiply" in kernel.loops


def test_updates_share_a_kernel_and_may_be_done_in_place():
    graph = Graph("update")
    p, m, g = (graph.input((32, 8), dtypes.float32) for _ in range(3))
    momentum = ops.add(ops.multiply(m, m.constant(0.9)), g)
    graph.outputs = [ops.subtract(p, ops.multiply(momentum, p.constant(0.1))), momentum]
    plan = plan_graph(graph, "hot", named(""))
    assert len(plan.launches) == 1
    assert plan.donations == [(0, 0), (1, 1)]


def test_a_moved_read_is_not_done_in_place():
    graph = Graph("reversed")
    x = graph.input((32,), dtypes.float32)
    graph.outputs = [ops.add(x, ops.reverse(x, axes=(0,)))]
    assert plan_graph(graph, "hot", named("")).donations == []


@pytest.mark.parametrize("target", ["avx512", "avx2", "x86", "neon"])
def test_kernels_are_written_for_every_target(target):
    graph = adding((5, 37))
    graph.outputs = [ops.reduce_sum(ops.exp(graph.outputs[0]), axes=(1,))]
    plan = plan_graph(graph, "hot", named(target))
    assert all("define void" in kernel.text for kernel in plan.kernels.values())


def test_pooling_reads_rows_whole_and_stores_positions_in_bytes():
    graph = Graph("pooling")
    x = graph.input((2, 3, 8, 8), dtypes.float32)
    places = {"axes": (2, 3), "sizes": (2, 2), "strides": (2, 2), "dilations": (1, 1)}
    cut = ops.reshape(ops.window(x, **places), shape=(2, 3, 4, 4, 4))
    where = ops.argmax(cut, axis=4)
    found = ops.gather(cut, ops.reshape(where, shape=(2, 3, 4, 4, 1)), axis=4)
    graph.outputs = [ops.reshape(found, shape=(2, 3, 4, 4))]
    plan = plan_graph(graph, "hot", named(""))
    assert len(plan.launches) == 1
    values = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (result,) = compile_graph(graph, "hot").run([Buffer.from_numpy(values)])
    expected = values.reshape(2, 3, 4, 2, 4, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(result.as_numpy(dtypes.float32, (2, 3, 4, 4)), expected)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("length", [64, 77, 96, 1000])
@pytest.mark.parametrize("kind", ["float32", "int8", "float64"])
def test_the_first_extreme_of_a_long_row(name, length, kind):
    rng = np.random.default_rng(length)
    dtype = dtypes.by_name(kind)
    values = rng.integers(-5, 6, (6, length)).astype(dtype.reference)
    if dtype.is_floating_point:
        values[1, 40] = values[1, 50] = values[2, 3] = values[2, -1] = np.nan
    values[3] = 0
    graph = Graph(name)
    x = graph.input(values.shape, dtype)
    graph.outputs = [getattr(ops, name)(x, axis=1)]
    for tier in ("plain", "cold", "hot"):
        (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(values)])
        expected = getattr(np, name)(values, axis=1)
        np.testing.assert_array_equal(found.as_numpy(dtypes.int64, (6,)), expected)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (20, 33), (1, 100)])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_sums_of_rows_side_by_side(shape, reverse):
    values = np.random.default_rng(0).integers(-9, 9, shape).astype(np.float32)
    graph = Graph("running")
    x = graph.input(shape, dtypes.float32)
    graph.outputs = [ops.cumulative_sum(x, axis=1, reverse=reverse)]
    expected = np.cumsum(values[:, ::-1], axis=1)[:, ::-1] if reverse else np.cumsum(values, axis=1)
    for tier in ("plain", "cold", "hot"):
        (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(values)])
        np.testing.assert_array_equal(found.as_numpy(dtypes.float32, shape), expected)


def softmax(x, axis):
    kept = tuple(1 if a == axis else extent for a, extent in enumerate(x.shape))

    def spread(y):
        return ops.broadcast(ops.reshape(y, shape=kept), shape=x.shape)

    raised = ops.exp(ops.subtract(x, spread(ops.reduce_max(x, axes=(axis,)))))
    return ops.divide(raised, spread(ops.reduce_sum(raised, axes=(axis,))))


def test_a_softmax_is_one_kernel_with_private_rows():
    graph = Graph("softmax")
    graph.outputs = [softmax(graph.input((12, 70), dtypes.float32), 1)]
    plan = plan_graph(graph, "hot", named(""))
    assert len(plan.launches) == 1
    (kernel,) = plan.kernels.values()
    assert "private b2: float32[70]" in kernel.loops
    assert kernel.scratch >= 4 * 70


def test_a_softmax_down_columns_is_not_done_by_rows():
    graph = Graph("softmax")
    graph.outputs = [softmax(graph.input((70, 12), dtypes.float32), 0)]
    assert len(plan_graph(graph, "hot", named("")).launches) > 1


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
@pytest.mark.parametrize("tier", ["plain", "cold", "hot"])
def test_complex_numbers_move(kind, tier):
    dtype = dtypes.by_name(kind)
    graph = Graph("moved")
    x = graph.input((3, 5), dtype)
    padded = ops.pad(x, x.constant(1 - 2j, shape=()), low=(1, 0), high=(0, 2))
    graph.outputs = [ops.transpose(padded, permutation=(1, 0))]
    values = np.arange(15).reshape(3, 5) * (1 + 2j)
    given = np.ascontiguousarray(values, dtype.storage)
    (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(given)])
    expected = np.pad(given, ((1, 0), (0, 2)), constant_values=1 - 2j).T
    np.testing.assert_array_equal(found.as_numpy(dtype, (7, 4)), expected)


@pytest.mark.parametrize("tier", ["plain", "cold", "hot"])
def test_a_long_chain_is_cut_in_kernels(tier):
    graph = Graph("chain")
    x = graph.input((9,), dtypes.float32)
    y = x
    for _ in range(700):
        y = ops.reverse(ops.add(y, x), axes=(0,))
    graph.outputs = [y]
    values = np.arange(9, dtype=np.float32)
    (found,) = compile_graph(graph, tier).run([Buffer.from_numpy(values)])
    expected = values
    for _ in range(700):
        expected = (expected + values)[::-1]
    np.testing.assert_array_equal(found.as_numpy(dtypes.float32, (9,)), expected)


def test_cold_kernels_serve_all_constants():
    def scaled(factor, shape):
        graph = Graph("scaled")
        x = graph.input(shape, dtypes.float32)
        graph.outputs = [ops.multiply(x, x.constant(factor))]
        return graph

    kernels = set()
    for factor, shape in ((0.25, (5,)), (-3.5, (6,)), (float("inf"), (2, 7)), (1e-30, (9,))):
        graph = scaled(factor, shape)
        kernels |= plan_graph(graph, "cold", named("")).kernels.keys()
        values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        (found,) = compile_graph(graph, "cold").run([Buffer.from_numpy(values)])
        with np.errstate(invalid="ignore", under="ignore"):
            expected = values * np.float32(factor)
        np.testing.assert_array_equal(found.as_numpy(dtypes.float32, shape), expected)
    assert len(kernels) == 1

"""Products of few terms are computed where they are read, with the bits of contractions."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.runtime.buffer import Buffer
from avalon.schedule.pull_products import FUSE_PRODUCTS, MOST
from avalon.settings import settings
from avalon.switches import without

F32 = dtypes.float32


@pytest.fixture(params=["", "avx2", "x86"])
def target(request):
    before = settings.target
    settings.target = request.param
    yield request.param
    settings.target = before


def layer(terms, turned, dtype=F32, sizes=(2, 7, 19)):
    """max(a b + c, 0), with b as it is or turned."""
    batch, rows, columns = sizes
    graph = Graph("layer")
    a = graph.input((batch, rows, terms), dtype)
    b = graph.input((batch, columns, terms) if turned else (batch, terms, columns), dtype)
    c = graph.input((batch, rows, columns), dtype)
    factor = ops.transpose(b, permutation=(0, 2, 1)) if turned else b
    made = ops.contract(a, factor) + c
    graph.outputs = [ops.maximum(made, made.constant(0, made.shape, dtype))]
    return graph


def bits(graph, tier, given):
    outputs = compile_graph(graph, tier).run([Buffer.from_numpy(x) for x in given])
    return outputs[0].as_numpy(graph.outputs[0].dtype, graph.outputs[0].shape).tobytes()


def values(graph):
    """Numbers of all sizes, some of them not finite, zeros of both signs."""
    rng = np.random.default_rng(0)
    given = []
    for node in graph.inputs:
        x = rng.normal(size=node.shape) * 10.0 ** rng.integers(-3, 3, node.shape)
        special = rng.random(node.shape)
        x = np.where(special < 0.1, -0.0, x)
        x = np.where(special > 0.97, np.inf, x)
        given.append(x.astype(node.dtype.reference))
    return given


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("terms", range(MOST + 2))
def test_all_tiers_give_equal_bits(terms, turned, target):
    graph = layer(terms, turned)
    given = values(graph)
    plain = bits(graph, "plain", given)
    assert bits(graph, "cold", given) == plain
    assert bits(graph, "hot", given) == plain


@pytest.mark.parametrize("dtype", [dtypes.float64, dtypes.float16, dtypes.int32])
def test_other_types(dtype):
    graph = layer(3, True, dtype)
    given = [np.nan_to_num(x, posinf=3).astype(dtype.reference) for x in values(layer(3, True))]
    assert bits(graph, "hot", given) == bits(graph, "plain", given)


def test_a_layer_of_two_inputs_is_one_kernel_of_loops():
    plan = compile_graph(layer(2, True, sizes=(1, 200, 256)), "hot").plan
    assert [launch.kernel.partition("_")[0] for launch in plan.launches] == ["loops"]
    with without(FUSE_PRODUCTS.name):
        plan = compile_graph(layer(2, True, sizes=(1, 200, 256)), "hot").plan
    assert plan.launches[0].kernel.startswith("contract")


def test_more_terms_have_a_kernel_of_their_own():
    plan = compile_graph(layer(MOST + 1, False), "hot").plan
    assert any(launch.kernel.startswith("contract") for launch in plan.launches)


def test_an_outer_product_joins_the_update_that_reads_it():
    graph = Graph("update")
    w = graph.input((30, 40), F32)
    g, x = graph.input((1, 30, 1), F32), graph.input((1, 1, 40), F32)
    rate = graph.input((), F32, scalar=True)
    slope = ops.reshape(ops.contract(g, x), shape=w.shape)
    graph.outputs = [w - slope * ops.broadcast(rate, shape=w.shape)]
    assert len(compile_graph(graph, "hot").plan.launches) == 1
    rng = np.random.default_rng(0)
    given = [Buffer.from_numpy(rng.normal(size=n.shape).astype(np.float32)) for n in (w, g, x)]
    found = [
        compile_graph(graph, tier).run([*given, 0.1])[0].as_numpy(F32, w.shape).tobytes()
        for tier in ("plain", "cold", "hot")
    ]
    assert found[0] == found[1] == found[2]

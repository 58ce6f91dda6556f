"""Bodies of loops: weights are packed in front of the loop, a cell is one kernel."""

import numpy as np
import pytest

from avalon import ops
from avalon.compiler import compile_graph
from avalon.differentiation import gradients
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.settings import settings
from tests.schedule.test_loops import F32, recurrence, same_in_all_tiers


def launches_of_loop(graph):
    """The kernels of each round, and those in front of the loop."""
    plan = compile_graph(graph, "hot").plan
    (loop,) = plan.loops
    names = [launch.kernel.partition("_")[0] for launch in plan.launches]
    return names[loop.begin : loop.end], names[: loop.begin]


@pytest.fixture(params=["", "avx2", "x86"])
def target(request):
    before = settings.target
    settings.target = request.param
    yield request.param
    settings.target = before


def test_a_round_of_a_cell_is_a_product_and_one_kernel_more():
    inside, ahead = launches_of_loop(recurrence(5, 3, 16)[0])
    assert inside == ["contract", "loops"]
    assert ahead.count("pack") == 1


def test_weights_that_do_not_fall_into_panels_are_packed_in_the_loop():
    inside, ahead = launches_of_loop(recurrence(5, 3, 7)[0])
    assert inside == ["contract", "loops"]
    assert "pack" not in ahead


# The last one sums in two blocks.
@pytest.mark.parametrize("sizes", [(3, 2, 16), (4, 9, 12), (2, 33, 24), (2, 3, 400)])
def test_packed_weights_give_equal_bits(sizes, target):
    graph, inputs, values = recurrence(*sizes)
    seeds = [graph.input(node.shape, node.dtype) for node in graph.outputs]
    graph.outputs = [*graph.outputs, *gradients(graph, graph.outputs, inputs, seeds)]
    rng = np.random.default_rng(1)
    values += [rng.normal(size=x.shape).astype(np.float32) for x in seeds]
    same_in_all_tiers(graph, values, 1e-2)


def a_product_with(weights_of):
    """A loop over h -> tanh(h w), where `weights_of` makes w of h and what the loop is given."""
    body = Graph("body")
    h, given = body.input((64, 64), F32), body.input((64, 64), F32)
    rows, weights = (ops.reshape(x, shape=(1, 64, 64)) for x in (h, weights_of(h, given)))
    product = ops.contract(rows, ops.transpose(weights, permutation=(0, 2, 1)))
    body.outputs = [ops.tanh(ops.reshape(product, shape=(64, 64)))]
    graph = Graph("loop")
    inputs = [graph.input((64, 64), F32) for _ in range(2)]
    graph.outputs = list(ops.scan(*inputs, body=Body(body), carries=1, sequences=0, length=4))
    rng = np.random.default_rng(0)
    return graph, [rng.normal(size=(64, 64)).astype(np.float32) * 0.2 for _ in inputs]


def test_what_follows_a_product_with_packed_weights_is_computed_in_it(target):
    graph, values = a_product_with(lambda h, given: given)
    same_in_all_tiers(graph, values, 1e-2)
    inside, ahead = launches_of_loop(graph)
    assert inside == ["contract"]
    assert "pack" in ahead


@pytest.mark.parametrize(
    "weights_of", [lambda h, given: h, lambda h, given: ops.tanh(h + given)], ids=["carry", "made"]
)
def test_weights_that_change_in_each_round_are_not_packed_ahead(weights_of):
    graph, values = a_product_with(weights_of)
    same_in_all_tiers(graph, values, 1e-2)
    assert "pack" not in launches_of_loop(graph)[1]


def test_inputs_that_a_body_hands_on_are_copied_by_its_kernel():
    body = Graph("body")
    a, b, x = (body.input((3, 5), F32) for _ in range(3))
    body.outputs = [b, a, ops.tanh(x), a, x]
    graph = Graph("loop")
    inputs = [graph.input(shape, F32) for shape in ((3, 5), (3, 5), (4, 3, 5))]
    graph.outputs = list(ops.scan(*inputs, body=Body(body), carries=2, sequences=1))
    rng = np.random.default_rng(0)
    same_in_all_tiers(graph, [rng.normal(size=x.shape).astype(np.float32) for x in inputs])
    assert launches_of_loop(graph)[0] == ["loops"]


def side_by_side(x, y):
    return ops.concatenate(x, ops.tanh(y), axis=1)


def put_into(x, y):
    return ops.put_add(ops.concatenate(x, y, axis=0), ops.argmax(x, axis=1), ops.exp(x))


@pytest.mark.parametrize("make", [side_by_side, put_into])
def test_what_is_written_part_by_part_is_put_out_twice_as_a_whole(make):
    body = Graph("body")
    x, y = body.input((2, 3), F32), body.input((2, 3), F32)
    made = make(x, y)
    body.outputs = [made, made, y]
    graph = Graph("loop")
    inputs = [graph.input((4, 2, 3), F32) for _ in range(2)]
    graph.outputs = list(ops.scan(*inputs, body=Body(body), carries=0, sequences=2))
    rng = np.random.default_rng(0)
    same_in_all_tiers(graph, [rng.normal(size=x.shape).astype(np.float32) for x in inputs])

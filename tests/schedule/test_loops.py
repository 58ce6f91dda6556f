"""Loops and branches in programs: equal bits in all tiers and with any number of threads."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.differentiation import gradients
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.graph.interpret import interpret
from avalon.graph.rebuild import rebuild
from avalon.runtime import stored, threads
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from tests.laws.table import cases

F32 = dtypes.float32
LOOPS = [ops.scan, ops.branch, ops.repeat]


@pytest.fixture(params=[1, 2, 3])
def thread_count(request, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE_NANOSECONDS", 0)
    before = settings.threads
    settings.threads = request.param
    yield request.param
    settings.threads = before


def run(graph, values, tier):
    program = compile_graph(graph, tier)
    outputs = program.run([Buffer.from_numpy(np.asarray(x)) for x in values])
    return [
        buffer.as_numpy(node.dtype, node.shape).copy()
        for buffer, node in zip(outputs, graph.outputs, strict=True)
    ]


def same_in_all_tiers(graph, values, tolerance=1e-4):
    plain = run(graph, values, "plain")
    for tier in ("cold", "hot"):
        for one, other in zip(run(graph, values, tier), plain, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=tier)
    for one, other in zip(plain, interpret(graph, values), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def cell(batch, hidden):
    """h, c, x, w -> the step of an LSTM; puts out h and the old c."""
    graph = Graph("cell")
    h, c = graph.input((batch, hidden), F32, "h"), graph.input((batch, hidden), F32, "c")
    x = graph.input((batch, 4 * hidden), F32, "x")
    w = graph.input((4 * hidden, hidden), F32, "w")
    rows = ops.reshape(h, shape=(1, batch, hidden))
    columns = ops.transpose(ops.reshape(w, shape=(1, *w.shape)), permutation=(0, 2, 1))
    gates = ops.reshape(ops.contract(rows, columns), shape=x.shape) + x

    def gate(number):
        starts, sizes = (0, number * hidden), (batch, hidden)
        return ops.slice(gates, starts=starts, sizes=sizes, steps=(1, 1))

    memory = ops.sigmoid(gate(1)) * c + ops.sigmoid(gate(0)) * ops.tanh(gate(2))
    state = ops.sigmoid(gate(3)) * ops.tanh(memory)
    graph.outputs = [state, memory, state, c]
    return Body(graph)


def recurrence(length, batch, hidden, reverse=False):
    graph = Graph("recurrence")
    shapes = [(batch, hidden), (batch, hidden), (length, batch, 4 * hidden), (4 * hidden, hidden)]
    inputs = [graph.input(shape, F32) for shape in shapes]
    graph.outputs = list(
        ops.scan(*inputs, body=cell(batch, hidden), carries=2, sequences=1, reverse=reverse)
    )
    rng = np.random.default_rng(length)
    return graph, inputs, [rng.normal(size=x.shape).astype(np.float32) * 0.3 for x in inputs]


@pytest.mark.parametrize("primitive", LOOPS, ids=lambda p: p.name)
def test_samples_have_equal_bits_in_all_tiers(primitive, thread_count):
    for case in cases(primitive, F32):
        graph, _, _ = case.graph()
        same_in_all_tiers(graph, case.operands)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 3, 7), (9, 32, 33), (0, 2, 5)])
def test_a_recurrence_and_its_gradients(sizes, reverse, thread_count):
    graph, inputs, values = recurrence(*sizes, reverse)
    seeds = [graph.input(node.shape, node.dtype) for node in graph.outputs]
    found = gradients(graph, graph.outputs, inputs, seeds)
    graph.outputs = [*graph.outputs, *found]
    rng = np.random.default_rng(1)
    values += [rng.normal(size=x.shape).astype(np.float32) for x in seeds]
    for _ in range(3):
        same_in_all_tiers(graph, values)


def test_a_loop_gives_the_bits_of_the_same_calls_one_after_the_other():
    graph, _, values = recurrence(5, 3, 8)
    unrolled = Graph("unrolled")
    h, c, x, w = [unrolled.input(node.shape, node.dtype) for node in graph.inputs]
    outputs = []
    for t in range(5):
        sizes = (1, *x.shape[1:])
        now = ops.slice(x, starts=(t, 0, 0), sizes=sizes, steps=(1, 1, 1))
        h, c, y, _ = unrolled.inline(
            cell(3, 8).graph, [h, c, ops.reshape(now, shape=x.shape[1:]), w]
        )
        outputs.append(ops.reshape(y, shape=(1, *y.shape)))
    unrolled.outputs = [h, c, ops.concatenate(*outputs, axis=0)]
    for one, other in zip(run(unrolled, values, "hot"), run(graph, values, "hot"), strict=False):
        np.testing.assert_array_equal(one, other)


def test_the_number_of_launches_does_not_depend_on_the_length():
    plans = [compile_graph(recurrence(length, 2, 4)[0]).plan for length in (2, 50)]
    assert len(plans[0].launches) == len(plans[1].launches)
    assert [loop.rounds for plan in plans for loop in plan.loops] == [2, 50]
    assert plans[0].kernels.keys() == plans[1].kernels.keys()


def test_loops_inside_loops(thread_count):
    inner = Graph("inner")
    a, x = inner.input((3,), F32), inner.input((3,), F32)
    inner.outputs = [ops.tanh(a * x) + x, a]
    outer = Graph("outer")
    a, rows, scale = outer.input((3,), F32), outer.input((4, 3), F32), outer.input((3,), F32)
    last, seen = ops.scan(a, rows * 0.5, body=Body(inner), carries=1, sequences=1)
    outer.outputs = [last * scale, seen]
    graph = Graph("nested")
    inputs = [graph.input(s, F32) for s in ((3,), (5, 4, 3), (3,))]
    graph.outputs = list(ops.scan(*inputs, body=Body(outer), carries=1, sequences=1, reverse=True))
    rng = np.random.default_rng(0)
    values = [rng.normal(size=x.shape).astype(np.float32) for x in inputs]
    same_in_all_tiers(graph, values)
    seeds = [graph.input(node.shape, node.dtype) for node in graph.outputs]
    graph.outputs = [node for node in gradients(graph, graph.outputs, inputs, seeds) if node]
    values += [rng.normal(size=x.shape).astype(np.float32) for x in seeds]
    same_in_all_tiers(graph, values)


def test_a_loop_whose_rounds_a_condition_decides_inside_a_loop(thread_count):
    more, step, outer = Graph("more"), Graph("step"), Graph("outer")
    n = more.input((), dtypes.int64)
    limit = more.input((), dtypes.int64)
    more.outputs = [ops.less(n, limit)]
    n = step.input((), dtypes.int64)
    step.input((), dtypes.int64)
    step.outputs = [n + n]
    n, start = outer.input((), dtypes.int64), outer.input((), dtypes.int64)
    limit = outer.input((), dtypes.int64)
    (reached,) = ops.repeat(start, limit, condition=Body(more), body=Body(step), carries=1)
    outer.outputs = [n + reached, reached]
    graph = Graph("g")
    inputs = [graph.input(s, dtypes.int64) for s in ((), (6,), ())]
    graph.outputs = list(ops.scan(*inputs, body=Body(outer), carries=1, sequences=1))
    same_in_all_tiers(graph, [np.int64(1), np.array([1, 3, 200, 5, 99, 101]), np.int64(100)])


def test_what_nobody_reads_is_not_computed():
    graph, _, _ = recurrence(4, 2, 4)
    graph.outputs = graph.outputs[:1]
    plan = compile_graph(graph).plan
    assert sum(spec.role == "output" for spec in plan.buffers) == 1
    assert len([a for launch in plan.launches for a in launch.arguments if a.written]) <= 6


def test_a_stored_plan_keeps_its_loops():
    plan = compile_graph(recurrence(4, 2, 4)[0]).plan
    again = stored.from_bytes(stored.to_bytes(plan))
    assert again == plan
    assert again.loops


@pytest.mark.parametrize("primitive", LOOPS, ids=lambda p: p.name)
def test_a_graph_that_holds_graphs_prints_as_python_that_rebuilds_it(primitive):
    for case in cases(primitive, F32):
        graph, _, _ = case.graph()
        again = rebuild(str(graph))
        assert again.signature() == graph.signature()
        assert again.signature().digest() == graph.signature().digest()
        assert str(rebuild(str(again))) == str(again)


@pytest.mark.parametrize("also_output", [False, True])
def test_a_loop_walks_an_input_of_another_shape_as_it_lies(also_output):
    body = Graph("squared")
    row = body.input((4,), F32, "row")
    body.outputs = [ops.multiply(row, row)]
    graph = Graph("rows")
    rows = ops.reshape(graph.input((2, 3, 4), F32), shape=(6, 4))
    (stack,) = ops.scan(rows, body=Body(body), carries=0, sequences=1)
    graph.outputs = [stack, rows] if also_output else [stack]
    same_in_all_tiers(graph, [np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)])
    copies = len(compile_graph(graph, "hot").plan.launches) - 1
    assert copies == also_output

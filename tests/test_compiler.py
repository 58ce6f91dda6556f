"""Law: every tier computes the meaning of every primitive, in every dtype it accepts, with equal
bits.
"""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops
from avalon.compiler import compile_graph
from avalon.errors import GraphError, IndexOutOfRange
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage, interpret, to_storage
from avalon.runtime.buffer import Buffer
from tests.laws.table import NAMES, PAIRS, cases

RELATIVE = {
    dtypes.float16: 2e-3,
    dtypes.bfloat16: 2e-2,
    dtypes.float32: 2e-5,
    dtypes.float64: 1e-11,
}


def run(graph, tier, operands):
    """The outputs of a compiled graph, as arrays of their reference types."""
    buffers = [
        Buffer.from_numpy(np.ascontiguousarray(to_storage(x, node.dtype)))
        for x, node in zip(operands, graph.inputs, strict=True)
    ]
    outputs = compile_graph(graph, tier).run(buffers)
    return [
        from_storage(np.array(found.as_numpy(node.dtype, node.shape)), node.dtype)
        for found, node in zip(outputs, graph.outputs, strict=True)
    ]


def all_cases(primitive, dtype):
    """One graph that computes all samples of a primitive, with its operands."""
    graph, operands, described = Graph(primitive.name), [], []
    for case in cases(primitive, dtype):
        inputs = [graph.input(x.shape, t) for x, t in zip(case.operands, case.dtypes, strict=True)]
        call = graph.call(primitive, inputs, case.parameters)
        results = [call]
        if call.dtype is dtypes.several:
            results = [ops.result(call, index=index) for index in range(len(call.results))]
        graph.outputs.extend(results)
        operands.extend(case.operands)
        described.extend([repr(case)] * len(results))
    return graph, operands, described


NATIVE = [
    pytest.param(*pair, id=name)
    for pair, name in zip(PAIRS, NAMES, strict=True)
    if pair[0].name != "host_call"
]


@pytest.mark.parametrize(("primitive", "dtype"), NATIVE)
def test_tiers_compute_the_meaning(primitive, dtype):
    graph, operands, described = all_cases(primitive, dtype)
    expected = interpret(graph, operands)
    plain = run(graph, "plain", operands)
    for value, found, node, case in zip(expected, plain, graph.outputs, described, strict=True):
        if node.dtype.is_floating_point:
            tolerance = RELATIVE[node.dtype]
            np.testing.assert_allclose(
                found.astype(np.float64),
                value.astype(np.float64),
                tolerance,
                tolerance,
                err_msg=case,
            )
        else:
            np.testing.assert_array_equal(found, value, err_msg=case)
    for tier in ("cold", "hot"):
        for value, found, case in zip(plain, run(graph, tier, operands), described, strict=True):
            assert value.tobytes() == found.tobytes(), (tier, case)


@pytest.mark.parametrize("tier", ["plain", "cold", "hot"])
def test_outputs_of_every_kind(tier):
    graph = Graph("outputs")
    x = graph.input((2, 3), dtypes.float32)
    empty = graph.input((0, 3), dtypes.float32)
    number = graph.input((), dtypes.float32, scalar=True)
    whole = graph.input((), dtypes.int64, scalar=True)
    y = ops.exp(x)
    graph.outputs = [
        x, x, ops.reshape(x, shape=(6,)), y, y, ops.reshape(y, shape=(3, 2)),
        ops.stop_gradient(ops.reshape(y, shape=(6,))), ops.transpose(y, permutation=(1, 0)),
        graph.constant(2.5, (2, 2), dtypes.float32), graph.constant(7, (), dtypes.int64),
        number, whole, ops.broadcast(number, shape=(3,)), ops.add(number, number), empty,
        ops.exp(empty), ops.reduce_sum(empty, axes=(0,)), ops.reshape(empty, shape=(3, 0)),
        ops.concatenate(x, empty, axis=0),
        ops.broadcast(ops.reshape(whole, shape=(1,)), shape=(4,)),
    ]  # fmt: skip
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = [values, np.zeros((0, 3), np.float32), 1.5, 4]
    expected = interpret(graph, given)
    buffers = [Buffer.from_numpy(x) if isinstance(x, np.ndarray) else x for x in given]
    found = compile_graph(graph, tier).run(buffers)
    assert len({buffer.address for buffer in found if buffer.nbytes}) == sum(
        1 for buffer in found if buffer.nbytes
    )
    for value, buffer, node in zip(expected, found, graph.outputs, strict=True):
        np.testing.assert_allclose(buffer.as_numpy(node.dtype, node.shape), value, 1e-6)


@pytest.mark.parametrize("tier", ["plain", "cold", "hot"])
def test_a_failed_check_names_value_and_line_and_changes_nothing(tier):
    graph = Graph("checked")
    weights = graph.input((4, 2), dtypes.float32)
    indices = graph.input((3,), dtypes.int64)
    graph.source = ("net.py", 14)
    chosen = ops.check_index(indices, size=4, message="label {value} is not below 4")
    graph.outputs = [ops.add(weights, weights), ops.take(weights, chosen)]
    program = compile_graph(graph, tier)
    table = Buffer.from_numpy(np.ones((4, 2), np.float32))
    bad = Buffer.from_numpy(np.array([1, 9, -3]))
    with pytest.raises(IndexOutOfRange, match=r"label 9 is not below 4.*net\.py:14"):
        program.run([table, bad], donated=[0])
    np.testing.assert_array_equal(table.as_numpy(dtypes.float32, (4, 2)), np.ones((4, 2)))
    good = Buffer.from_numpy(np.array([1, 3, 0]))
    _, rows = program.run([table, good])
    np.testing.assert_array_equal(rows.as_numpy(dtypes.float32, (3, 2)), np.ones((3, 2)))


def test_passes_can_be_shown_and_skipped():
    graph = Graph("shown")
    x = graph.input((4,), dtypes.float32)
    graph.outputs = [ops.add(ops.exp(x), ops.exp(x))]
    seen = []
    program = compile_graph(graph, "hot", show=lambda name, made: seen.append(name))
    assert seen[0] == "graph"
    assert seen[-2:] == ["schedule", "plan"]
    assert {"common subexpressions", "dead code"} <= set(seen)
    again = []
    compile_graph(graph, "hot", lambda name, made: again.append(name), skip=["dead code"])
    assert "dead code" not in again
    assert "exp" in next(iter(program.kernels.values())).loops


def test_a_host_call_is_refused():
    graph = Graph("host")
    x = graph.input((4,), dtypes.float32)
    graph.outputs = [ops.host_call(x, function_key="identity", shapes=((4,),), dtypes=(x.dtype,))]
    with pytest.raises(GraphError, match="cut the graph there"):
        compile_graph(graph, "cold")

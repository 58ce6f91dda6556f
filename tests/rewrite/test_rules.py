"""Every rule: what it makes of a small graph, and that it keeps every bit."""

import numpy as np
import pytest

from avalon import dtype as dtypes, ops, rewrite
from avalon.graph.graph import Graph
from avalon.graph.interpret import from_storage, interpret, to_storage
from avalon.graph.node import Call, Constant
from avalon.graph.verify import verify

F, I, B = dtypes.float32, dtypes.int32, dtypes.bool_
SPECIAL = [0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 1e-42, 3e38]


def part(x, starts, sizes, steps=None):
    return ops.slice(x, starts=starts, sizes=sizes, steps=steps or (1,) * len(sizes))


def twice_negative(x):
    return ops.negative(ops.negative(x))


def outer(x, y):
    return ops.contract(ops.reshape(x, shape=(1, 9, 1)), ops.reshape(y, shape=(1, 1, 9)))


def turned_outer(x, y):
    factors = ops.reshape(x, shape=(1, 9, 1)), ops.reshape(y, shape=(1, 1, 9))
    a, b = [ops.transpose(factor, permutation=(0, 2, 1)) for factor in factors]
    return ops.reshape(ops.contract(b, a), shape=(1, 9, 9))


def gated(x, gradient, by_result):
    """The gradient where x is not <= 0, and x's relu, which is wanted too."""
    zero = x.constant(0)
    closed = ops.less_equal(x, zero)
    y = ops.where(closed, zero, x)
    if by_result:
        closed = ops.less_equal(y, zero)
    return ops.where(closed, zero, gradient) * y


def pooled(x, y, gates_winners):
    """The largest of windows of three that share elements, and y sent back to where they stand,
    except where x is not positive.
    """
    places = {"axes": (0,), "sizes": (3,), "strides": (2,), "dilations": (1,)}
    rows = ops.reshape(ops.window(x, **places), shape=(4, 3))
    positions = x.apply(ops.iota, (), {"shape": (4, 3), "axis": 1, "dtype": dtypes.int64})
    place = ops.reshape(ops.argmax(rows, axis=1), shape=(4, 1))
    chosen = ops.equal(positions, ops.broadcast(place, shape=(4, 3)))
    none = x.constant(0, shape=(4, 3))
    winners = ops.reduce_sum(ops.where(chosen, rows, none), axes=(1,))
    g = ops.reshape(part(y, (0,), (4,)), shape=(4, 1))
    if gates_winners:
        closed = ops.less_equal(winners, x.constant(0, shape=(4,)))
        g = ops.where(ops.reshape(closed, shape=(4, 1)), g.constant(0), g)
    spread = ops.where(chosen, ops.broadcast(g, shape=(4, 3)), none)
    folded = ops.fold_window(ops.reshape(spread, shape=(4, 3)), shape=(9,), **places)
    if not gates_winners:
        folded = ops.where(ops.less_equal(x, x.constant(0)), x.constant(0), folded)
    return ops.concatenate(folded, winners, axis=0)


# name of the rule: (dtype of the inputs, before, after), functions of x, y and a condition c (9,)
RULES = {
    "multiply_by_one": (F, lambda x, y, c: x.constant(1.0) * x, lambda x, y, c: x),
    "divide_by_one": (F, lambda x, y, c: x / x.constant(1), lambda x, y, c: x),
    "divide_by_power_of_two": (F, lambda x, y, c: x / x.constant(-4), lambda x, y, c: x * -0.25),
    "add_nothing": (F, lambda x, y, c: x + x.constant(-0.0), lambda x, y, c: x),
    "subtract_nothing": (F, lambda x, y, c: x - x.constant(0.0), lambda x, y, c: x),
    "undone": (F, lambda x, y, c: twice_negative(x), lambda x, y, c: x),
    "absolute_of_sign": (F, lambda x, y, c: ops.absolute(-x), lambda x, y, c: ops.absolute(x)),
    "same_twice": (F, lambda x, y, c: ops.maximum(x, x), lambda x, y, c: x),
    "where_same": (F, lambda x, y, c: ops.where(c, x, x), lambda x, y, c: x),
    "where_constant": (F, lambda x, y, c: ops.where(c.constant(False), x, y), lambda x, y, c: y),
    "where_not": (
        F,
        lambda x, y, c: ops.where(ops.logical_not(c), x, y),
        lambda x, y, c: ops.where(c, y, x),
    ),
    "cast_to_same": (F, lambda x, y, c: ops.cast(x, dtype=F), lambda x, y, c: x),
    "cast_there_and_back": (
        I,
        lambda x, y, c: ops.cast(ops.cast(x, dtype=dtypes.int64), dtype=I),
        lambda x, y, c: x,
    ),
    "bitcast_of_bitcast": (
        F,
        lambda x, y, c: ops.bitcast(ops.bitcast(x, dtype=I), dtype=dtypes.uint32),
        lambda x, y, c: ops.bitcast(x, dtype=dtypes.uint32),
    ),
    "stop_gradient_of_value": (F, lambda x, y, c: ops.stop_gradient(x), lambda x, y, c: x),
    "transpose_of_nothing": (
        F,
        lambda x, y, c: ops.transpose(x, permutation=(0,)),
        lambda x, y, c: x,
    ),
    "transpose_of_transpose": (
        F,
        lambda x, y, c: ops.transpose(
            ops.transpose(ops.reshape(x, shape=(3, 1, 3)), permutation=(1, 0, 2)),
            permutation=(1, 2, 0),
        ),
        lambda x, y, c: ops.transpose(ops.reshape(x, shape=(3, 1, 3)), permutation=(0, 2, 1)),
    ),
    "transpose_of_product": (
        F,
        lambda x, y, c: ops.transpose(outer(x, y), permutation=(0, 2, 1)),
        lambda x, y, c: turned_outer(x, y),
    ),
    "shape_kept": (F, lambda x, y, c: ops.broadcast(x, shape=(9,)), lambda x, y, c: x),
    "shape_twice": (
        F,
        lambda x, y, c: ops.reshape(ops.reshape(x, shape=(3, 3)), shape=(1, 9)),
        lambda x, y, c: ops.reshape(x, shape=(1, 9)),
    ),
    "slice_of_everything": (F, lambda x, y, c: part(x, (0,), (9,)), lambda x, y, c: x),
    "slice_of_slice": (
        F,
        lambda x, y, c: part(part(x, (1,), (4,), (2,)), (1,), (2,), (2,)),
        lambda x, y, c: part(x, (3,), (2,), (4,)),
    ),
    "slice_of_concatenate": (
        F,
        lambda x, y, c: part(ops.concatenate(x, y, axis=0), (10,), (3,), (2,)),
        lambda x, y, c: part(y, (1,), (3,), (2,)),
    ),
    "slice_of_its_assignment": (
        F,
        lambda x, y, c: part(
            ops.assign_slice(x, part(y, (0,), (4,)), starts=(2,), steps=(1,)), (2,), (4,)
        ),
        lambda x, y, c: part(y, (0,), (4,)),
    ),
    "assignment_of_everything": (
        F,
        lambda x, y, c: ops.assign_slice(x, y, starts=(0,), steps=(1,)),
        lambda x, y, c: y,
    ),
    "assignment_twice": (
        F,
        lambda x, y, c: ops.assign_slice(
            ops.assign_slice(x, part(x, (5,), (3,)), starts=(1,), steps=(1,)),
            part(y, (0,), (3,)),
            starts=(1,),
            steps=(1,),
        ),
        lambda x, y, c: ops.assign_slice(x, part(y, (0,), (3,)), starts=(1,), steps=(1,)),
    ),
    "reverse_of_nothing": (
        F,
        lambda x, y, c: ops.reverse(ops.reshape(x, shape=(1, 9)), axes=(0,)),
        lambda x, y, c: ops.reshape(x, shape=(1, 9)),
    ),
    "reverse_of_reverse": (
        F,
        lambda x, y, c: ops.reverse(
            ops.reverse(ops.reshape(x, shape=(3, 3)), axes=(0, 1)), axes=(1,)
        ),
        lambda x, y, c: ops.reverse(ops.reshape(x, shape=(3, 3)), axes=(0,)),
    ),
    "pad_of_nothing": (
        F,
        lambda x, y, c: ops.pad(x, x.constant(1, shape=()), low=(0,), high=(0,)),
        lambda x, y, c: x,
    ),
    "concatenate_of_one": (F, lambda x, y, c: ops.concatenate(x, axis=0), lambda x, y, c: x),
    "fold_arithmetic": (
        F,
        lambda x, y, c: x * (x.constant(3.0) - x.constant(0.5)),
        lambda x, y, c: x * 2.5,
    ),
    "fold_movements": (
        F,
        lambda x, y, c: x + ops.broadcast(x.constant(2.0, shape=()), shape=(9,)),
        lambda x, y, c: x + 2.0,
    ),
    "mask_of_relu": (
        F,
        lambda x, y, c: gated(x, y, False),
        lambda x, y, c: gated(x, y, True),
    ),
    "mask_of_winners": (
        F,
        lambda x, y, c: pooled(x, y, False),
        lambda x, y, c: pooled(x, y, True),
    ),
    "fold_joins": (
        F,
        lambda x, y, c: (
            x + ops.concatenate(x.constant(2.0, shape=(4,)), x.constant(2.0, shape=(5,)), axis=0)
        ),
        lambda x, y, c: x + 2.0,
    ),
}


def build(dtype, function):
    graph = Graph()
    x, y = graph.input((9,), dtype), graph.input((9,), dtype)
    condition = graph.input((9,), B)
    graph.outputs = [function(x, y, condition)]
    return graph


def simplified(graph, **options):
    applied = rewrite.apply_rules(graph, rewrite.RULES, **options)
    rewrite.remove_dead_code(graph)
    verify(graph)
    return applied


def values(dtype):
    with np.errstate(invalid="ignore"):
        x = np.array(SPECIAL if dtype.is_floating_point else range(-4, 5)).astype(dtype.reference)
    return [x, x[::-1].copy(), np.arange(9) % 2 == 0]


def test_every_rule_has_its_example():
    assert set(RULES) == {rule.name for rule in rewrite.RULES}
    assert all(rule.apply.__doc__ for rule in rewrite.RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule(name):
    dtype, before, after = RULES[name]
    graph, wanted = build(dtype, before), build(dtype, after)
    (original,) = interpret(graph, values(dtype))
    others = {rule.name for rule in rewrite.RULES} - {name}
    applied = simplified(graph, disabled=others)
    assert applied[name] >= 1
    rewrite.remove_dead_code(wanted)
    assert graph.signature() == wanted.signature()
    (found,) = interpret(graph, values(dtype))
    assert found.tobytes() == original.tobytes()


@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float16, dtypes.float64], ids=repr)
@pytest.mark.parametrize("name", ["mask_of_relu", "mask_of_winners"])
def test_masks_keep_every_bit_of_every_float(name, dtype):
    _, before, after = RULES[name]
    graph, wanted = build(dtype, before), build(dtype, after)
    with np.errstate(over="ignore"):  # the largest is infinite in float16
        given = [from_storage(to_storage(x, dtype), dtype) for x in values(dtype)[:2]]
    given.append(np.arange(9) % 2 == 0)
    (original,) = interpret(graph, given)
    others = {rule.name for rule in rewrite.RULES} - {name}
    assert simplified(graph, disabled=others)[name] >= 1
    rewrite.remove_dead_code(wanted)
    assert graph.signature() == wanted.signature()
    (found,) = interpret(graph, given)
    assert found.tobytes() == original.tobytes()


@pytest.mark.parametrize("name", RULES)
def test_rules_can_be_switched_off(name):
    dtype, before, _ = RULES[name]
    graph = build(dtype, before)
    assert simplified(graph, disabled=[name])[name] == 0


@pytest.mark.parametrize(
    "keep",
    [
        lambda x: x + x.constant(0.0),
        lambda x: x - x.constant(-0.0),
        lambda x: x * x.constant(0.0),
        lambda x: x - x,
        lambda x: x / x,
        lambda x: x / x.constant(3.0),
        lambda x: ops.log(ops.exp(x)),
        lambda x: ops.power(x, x.constant(1.0)),
        lambda x: ops.exp(x.constant(1.0)),
        lambda x: ops.cast(ops.cast(x, dtype=dtypes.float16), dtype=F),
        lambda x: x.constant(0.0) / x.constant(0.0),
    ],
)
def test_what_would_change_bits_stays(keep):
    graph = build(F, lambda x, y, c: keep(x))
    rewrite.remove_dead_code(graph)
    before = graph.signature()
    assert not simplified(graph)
    assert graph.signature() == before


def test_a_product_that_is_read_twice_is_computed_once():
    graph = Graph()
    x = graph.input((2, 3), F)
    product = ops.contract(ops.reshape(x, shape=(1, 2, 3)), ops.reshape(x, shape=(1, 3, 2)))
    matrix = ops.reshape(product, shape=(2, 2))
    turned = ops.transpose(matrix, permutation=(1, 0))
    graph.outputs = [turned + matrix]
    assert not simplified(graph)["transpose_of_product"]
    graph.outputs = [turned]
    rewrite.remove_dead_code(graph)
    assert simplified(graph)["transpose_of_product"] == 1


def test_rules_follow_each_other_to_the_end():
    graph = build(F, lambda x, y, c: twice_negative(twice_negative(x * 1.0 - 0.0)) / 1.0)
    simplified(graph)
    assert graph.outputs == [graph.inputs[0]]


def test_new_nodes_say_what_they_replace():
    graph = build(F, lambda x, y, c: x / x.constant(4))
    call = graph.outputs[0]
    call.note, call.source = "mean", ("net.py", 3)
    simplified(graph)
    (found,) = graph.outputs
    assert found.note == "divide_by_power_of_two: mean"
    assert found.source == ("net.py", 3)
    assert graph.current(call) is found


def test_a_hundred_thousand_nodes():
    graph = Graph()
    x = y = graph.input((2,), F)
    for _ in range(50_000):
        y = twice_negative(y + x) - x.constant(0.0)
    graph.outputs = [y]
    applied = simplified(graph)
    assert applied["undone"] == applied["subtract_nothing"] == 50_000
    assert len(graph) == 50_001


def test_equal_calls_merge():
    graph = Graph()
    x = graph.input((2, 3), F)
    a = ops.exp(x * 2.0) + ops.reduce_sum(ops.exp(x * 2.0), axes=()) * x.constant(-0.0)
    b = ops.transpose(x * x.constant(0.0), permutation=(1, 0))
    graph.outputs = [a, b, ops.transpose(x * x.constant(0.0), permutation=(1, 0))]
    data = np.ones((2, 3))
    before = interpret(graph, [data])
    assert rewrite.merge_common_subexpressions(graph) == 6
    rewrite.remove_dead_code(graph)
    verify(graph)
    zeros = [n.value for n in graph.nodes if isinstance(n, Constant) and n.value == 0]
    assert sorted(map(str, zeros)) == ["-0.0", "0.0"]
    assert graph.outputs[1] is graph.outputs[2]
    for one, other in zip(before, interpret(graph, [data]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_draws_never_merge():
    graph = Graph()
    key = graph.input((), dtypes.uint64, scalar=True)
    graph.outputs = [ops.random_bits(key, key, shape=(3,)) for _ in range(2)]
    assert rewrite.merge_common_subexpressions(graph) == 0


def test_dead_code_goes_and_inputs_stay():
    graph = Graph()
    x, unused = graph.input((2,), F), graph.input((2,), F)
    dead = ops.exp(x)
    ops.sin(dead)
    graph.outputs = [ops.cos(x)]
    rewrite.remove_dead_code(graph)
    assert graph.nodes == [x, unused, *graph.outputs]
    assert [n.primitive for n in graph.nodes if isinstance(n, Call)] == [ops.cos]

"""Control flow, memory and vectors: what `Builder` writes, run on every feature set here."""

from __future__ import annotations

import random

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value, verify_text
from avalon.codegen.target import Target, host, named
from tests.codegen.harness import calls, elementwise_text, run, runnable

TARGETS = [pytest.param(target, id=target.name) for target in runnable()]
ALL_TARGETS = ["avx512", "avx2", "x86", "neon"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_a_loop_carries_values(target: Target, count: int) -> None:
    emit = Emit("total", target)
    lanes = target.lanes
    pointer, size = emit.pointer(0), emit.integer(1)
    zero = emit.constant(0, dtypes.float32, lanes)
    with emit.loop(0, size, lanes, carried=(zero,)) as loop:
        mask = emit.mask_below(emit.subtract(size, loop.index), lanes)
        part = emit.load(pointer, loop.index, dtypes.float32, lanes, mask)
        loop.next(emit.add(loop.values[0], part))
    total = loop.results[0]
    while total.lanes > 1:
        total = emit.add(*emit.halves(total))
    emit.store(emit.pointer(2), 0, total)
    x = np.arange(count, dtype=np.float32)
    result = np.full(1, -1, np.float32)
    run(emit.finish(), "total", [x, count, result], target=target)
    assert result[0] == x.sum()


def test_loops_nest_and_branches_merge() -> None:
    emit = Emit("count", host())
    zero = emit.constant(0, dtypes.int64)
    with emit.loop(0, emit.integer(0), carried=(zero,)) as rows:
        with emit.loop(0, rows.index, carried=(rows.values[0],)) as columns:
            odd = emit.not_equal(emit.bit_and(columns.index, 1), 0)
            with emit.if_(odd, carried=(columns.values[0],)) as branch:
                branch.next(emit.add(columns.values[0], columns.index))
            columns.next(branch.results[0])
        rows.next(columns.results[0])
    emit.store(emit.pointer(1), 0, rows.results[0])
    result = np.zeros(1, np.int64)
    run(emit.finish(), "count", [7, result])
    assert result[0] == sum(j for i in range(7) for j in range(i) if j % 2)


def test_a_while_loop_stops_at_its_check() -> None:
    emit = Emit("collatz", host())
    start, steps = emit.integer(0), emit.constant(0, dtypes.int64)
    with emit.while_((start, steps)) as loop:
        number, steps = loop.values
        loop.check(emit.less(emit.constant(1, dtypes.int64), number))
        odd = emit.not_equal(emit.bit_and(number, 1), 0)
        up = emit.add(emit.multiply(number, 3), 1)
        loop.next(emit.where(odd, up, emit.shift_right(number, 1)), emit.add(steps, 1))
    emit.store(emit.pointer(1), 0, loop.results[1])
    result = np.zeros(1, np.int64)
    run(emit.finish(), "collatz", [27, result])
    assert result[0] == 111


def test_invariant_work_stands_in_front_of_the_loop_and_is_written_once() -> None:
    emit = Emit("kernel", host())
    scale = emit.scalar(0, dtypes.float32)
    with emit.loop(emit.begin, emit.end, 16) as loop:
        wide = emit.broadcast(emit.add(scale, scale), 16)
        again = emit.broadcast(emit.add(scale, scale), 16)
        assert wide is again
        emit.store(emit.pointer(1), loop.index, wide)
    text = emit.finish()
    assert text.count("fadd") == 1
    assert text.index("fadd") < text.index("loop1:")
    assert text.index("shufflevector") < text.index("loop1:")


def test_work_in_a_branch_stays_there() -> None:
    emit = Emit("kernel", host())
    x = emit.scalar(0, dtypes.float32)
    with emit.if_(emit.less(x, emit.constant(0.0, dtypes.float32))):
        emit.store(emit.pointer(1), 0, emit.sqrt(x))
    text = emit.finish()
    assert text.index("then") < text.index("@llvm.sqrt.f32(float %")


def test_known_numbers_are_computed_in_python() -> None:
    emit = Emit("kernel", host())
    index = emit.add(emit.multiply(emit.constant(6, dtypes.int64), 7), 0)
    assert index.number == 42
    assert emit.remainder(emit.like(index, -7), emit.like(index, 3)).number == 2
    assert emit.constant(300, dtypes.uint8).number == 44
    with emit.loop(3, 4) as loop:
        assert loop.index.number == 3
    assert "br" not in emit.finish()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [t for t in dtypes.ALL if not t.is_complex], ids=str)
def test_memory_of_every_dtype(target: Target, dtype: dtypes.DType) -> None:
    """Masked load and store, gather and scatter, whole and scalar: all move the same bytes."""
    emit = Emit("move", target)
    lanes, count = 8, 5
    source = emit.pointer(0)
    mask = emit.mask_below(emit.integer(1), lanes)
    emit.store(emit.pointer(2), 0, emit.load(source, 0, dtype, lanes, mask), mask)
    order = emit.load(emit.pointer(3), 0, dtypes.int64, lanes)
    emit.store(emit.pointer(4), 0, emit.gather(source, order, dtype))
    emit.scatter(emit.pointer(5), order, emit.load(source, 0, dtype, lanes), mask)
    emit.store(emit.pointer(6), 1, emit.load(source, 2, dtype))
    values = np.arange(8).astype(dtype.storage)
    order_values = np.array([3, 1, 0, 2, 7, 5, 6, 4])
    results = [np.zeros(8, dtype.storage) for _ in range(4)]
    run(
        emit.finish(),
        "move",
        [values, count, results[0], order_values, *results[1:]],
        target=target,
    )
    np.testing.assert_array_equal(results[0], np.where(np.arange(8) < count, values, 0))
    np.testing.assert_array_equal(results[1], values[order_values])
    scattered = np.zeros(8, dtype.storage)
    scattered[order_values[:count]] = values[:count]
    np.testing.assert_array_equal(results[2], scattered)
    assert results[3][1] == values[2]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_transpose_of_a_tile(target: Target, lanes: int) -> None:
    emit = Emit("turn", target)
    rows = [emit.load(emit.pointer(0), lanes * i, dtypes.float32, lanes) for i in range(lanes)]
    for i, column in enumerate(emit.transpose(rows)):
        emit.store(emit.pointer(1), lanes * i, column)
    tile = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    result = np.zeros_like(tile)
    run(emit.finish(), "turn", [tile, result], target=target)
    np.testing.assert_array_equal(result, tile.T)


def test_lanes_join_and_part() -> None:
    emit = Emit("lanes", host())
    x = emit.load(emit.pointer(0), 0, dtypes.int32, 8)
    low, high = emit.halves(x)
    swapped = emit.insert(emit.join(high, low), emit.extract(x, 7), 1)
    emit.store(emit.pointer(1), 0, swapped)
    result = np.zeros(8, np.int32)
    run(emit.finish(), "lanes", [np.arange(8, dtype=np.int32), result])
    assert result.tolist() == [4, 7, 6, 7, 0, 1, 2, 3]


def test_a_table_lies_beside_the_code() -> None:
    emit = Emit("look", host())
    table = emit.table([1.5, 2.5, 3.5], dtypes.float64)
    emit.store(emit.pointer(0), 0, emit.load(table, emit.integer(1), dtypes.float64))
    result = np.zeros(1)
    run(emit.finish(), "look", [result, 2])
    assert result[0] == 3.5


def test_what_nothing_reads_is_left_out() -> None:
    emit = Emit("kernel", host())
    x = emit.load(emit.pointer(0), 0, dtypes.float32, 8)
    emit.exp(emit.add(x, x))
    emit.prefetch(emit.pointer(0), 64, dtypes.float32)
    emit.store(emit.pointer(1), 0, x)
    text = emit.finish()
    assert "fadd" not in text
    assert "fma" not in text.partition("}")[0]
    values = np.arange(200, dtype=np.float32)
    result = np.zeros(8, np.float32)
    run(text, "kernel", [values, result])
    assert result.tolist() == list(range(8))


def test_foreign_functions_are_refused() -> None:
    for line in ("%r = call float @expf(float %x)", "call void @llvm.exp.f32(float %x)"):
        with pytest.raises(ValueError, match="may not call"):
            verify_text(f"define void @k() {{\n {line}\n ret void\n}}", host())
    fused = "%r = call <4 x float> @llvm.fma.v4f32(<4 x float> %x, <4 x float> %x, <4 x float> %x)"
    verify_text(fused, named("avx2"))
    with pytest.raises(ValueError, match=r"for x86 may not call llvm\.fma"):
        verify_text(fused, named("x86"))


def test_mistakes_of_callers_are_named() -> None:
    emit = Emit("kernel", host())
    zero = emit.constant(0, dtypes.int64)
    context = emit.loop(0, emit.end, carried=(zero,))
    loop = context.__enter__()
    with pytest.raises(ValueError, match="carries 1 values, not 2"):
        loop.next(zero, zero)
    with pytest.raises(ValueError, match="open loop"):
        emit.finish()
    with pytest.raises(ValueError, match="8 lanes do not spread to 16"):
        emit.broadcast(emit.iota(8), 16)
    with pytest.raises(TypeError, match="complex64"):
        emit.load(emit.pointer(0), 0, dtypes.complex64)
    with pytest.raises(ValueError, match="is no feature set"):
        named("sse9")


def _mixture(emit: Emit, x: Value, y: Value) -> Value:
    chosen = emit.where(emit.less(x, y), emit.maximum(x, y), emit.floor(emit.divide(x, y)))
    return emit.fma(emit.cast(emit.cast(chosen, dtypes.float16), x.dtype), x, emit.round(y))


@pytest.mark.parametrize("name", ALL_TARGETS)
@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=str)
def test_every_target_assembles(name: str, dtype: dtypes.DType) -> None:
    target = named(name)
    for lanes in (1, target.lanes):
        text = elementwise_text(_mixture, [dtype, dtype], dtype, lanes, target)
        assert calls(text, target) == []


@pytest.mark.parametrize("name", ALL_TARGETS)
@pytest.mark.parametrize(
    "function",
    ["exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "erfinv", "lgamma", "digamma"],
)
def test_functions_assemble_on_every_target(name: str, function: str) -> None:
    target = named(name)

    def apply(emit: Emit, x: Value) -> Value:
        value: Value = getattr(emit, function)(x)
        return value

    text = elementwise_text(apply, [dtypes.float32], dtypes.float32, target.lanes, target)
    assert calls(text, target) == []


@pytest.mark.parametrize("seed", range(20))
def test_index_arithmetic_means_the_same_however_it_is_folded(seed: int) -> None:
    """Random sums, differences and products of two arguments, a counter and constants."""
    choose = random.Random(seed)
    arguments = [choose.randrange(-(2**40), 2**40) for _ in range(2)]
    emit = Emit("fold", host())
    expected = []
    with emit.loop(0, emit.integer(0), nonempty=True) as loop:
        known = [(emit.integer(1), arguments[0]), (emit.integer(2), arguments[1])]
        known.append((loop.index, 0))
        known += [(emit.index(number), number) for number in (0, 1, -1, 3, 64, -(2**62))]
        for _ in range(30):
            (a, x), (b, y) = choose.choice(known), choose.choice(known)
            name = choose.choice(["add", "subtract", "multiply"])
            value = getattr(emit, name)(a, b)
            number = {"add": x + y, "subtract": x - y, "multiply": x * y}[name]
            known.append((value, number))
        for place, (value, number) in enumerate(known):
            emit.store(emit.pointer(3), emit.add(loop.index, place), value)
            expected.append((number + 2**63) % 2**64 - 2**63)
    result = np.zeros(len(expected), np.int64)
    run(emit.finish(), "fold", [1, *arguments, result])
    assert result.tolist() == expected


def test_addresses_that_differ_by_a_constant_share_the_rest() -> None:
    emit = Emit("tile", host())
    row = emit.integer(0)
    pointer = emit.offset(emit.pointer(1), -64)
    with emit.loop(0, emit.integer(2)) as loop:
        for k in range(8):
            index = emit.add(emit.multiply(emit.add(row, k), 64), emit.add(loop.index, 16))
            emit.store(pointer, index, emit.constant(float(k), dtypes.float32))
    text = emit.finish()
    assert text.count(" mul ") == 1
    assert text.count("getelementptr float") == 1
    result = np.zeros((10, 64), np.float32)
    run(text, "tile", [1, result, 3])
    expected = np.zeros_like(result)
    expected[1:9, :3] = np.arange(8)[:, None]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [dtypes.int8, dtypes.int16, dtypes.bool_])
def test_a_masked_store_of_narrowed_lanes_spoils_no_neighbour(
    target: Target, count: int, dtype: dtypes.DType
) -> None:
    emit = Emit("narrow", target)
    lanes = target.lanes
    wide = emit.load(emit.pointer(0), 0, dtypes.int32, lanes)
    found = emit.add(wide, emit.constant(1, dtypes.int32, lanes))
    emit.store(emit.pointer(1), 0, emit.cast(found, dtype), emit.mask_below(count, lanes))
    x = np.arange(lanes, dtype=np.int32)
    result = np.full(64, 77, dtype.storage).view(np.uint8)
    before = result.copy()
    run(emit.finish(), "narrow", [x, result], target=target)
    size = dtype.itemsize * count
    assert (
        result[:size].view(dtype.storage).tolist() == (x + 1)[:count].astype(dtype.storage).tolist()
    )
    assert (result[size:] == before[size:]).all()

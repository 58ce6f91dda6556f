"""Arithmetic of every dtype against NumPy and PyTorch, scalar and vector, on every target here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.codegen.math_functions import Whole, format_of, scale
from avalon.codegen.target import Target
from avalon.dtype import DType
from tests.codegen.harness import elementwise, runnable

Array = np.ndarray[Any, Any]
INTEGERS = [*dtypes.INTEGERS, dtypes.uint32, dtypes.uint64]
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.7, -3.7, np.inf, -np.inf, np.nan, 3e38, -3e38,
    1e-42, -1e-42, 1e-7, 65519.0, 65520.0, 2.0**-24, 2.0**-25, 8388607.5, -8388607.5, 1e10,
]  # fmt: skip


@pytest.fixture(params=runnable(), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def apply(name: str) -> Callable[..., Value]:
    """The method of `Emit` of that name, as a function of the emitter and values."""

    def call(emit: Emit, *values: Value) -> Value:
        result: Value = getattr(emit, name)(*values)
        return result

    return call


def both(name: str, target: Target, *operands: Array, result: DType | None = None) -> Array:
    """Run vectors and scalars; they must agree."""
    vector = elementwise(apply(name), *operands, target=target, result=result)
    scalar = elementwise(apply(name), *operands, target=target, result=result, lanes=1)
    np.testing.assert_array_equal(vector, scalar)
    return vector


def integer_pairs(dtype: DType) -> tuple[Array, Array]:
    """Every pair of interesting integers."""
    info = np.iinfo(dtype.storage)
    values = {info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 100, info.max // 3}
    if dtype.kind == "signed":
        values |= {-1, -2, -3, -7, -100}
    grid = np.array(sorted(values), dtype=dtype.storage)
    first, second = np.meshgrid(grid, grid)
    return first.ravel(), second.ravel()


def wrapped(value: int, dtype: DType) -> int:
    return int(np.array([value & (2**64 - 1)], np.uint64).astype(dtype.storage)[0])


def truncated(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def powered(a: int, b: int) -> int:
    if b >= 0:
        return pow(a, b, 2**64)
    return {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


INTEGER_MEANING: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": truncated,
    "floor_divide": lambda a, b: a // b if b else 0,
    "remainder": lambda a, b: a % b if b else 0,
    "maximum": max,
    "minimum": min,
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
    "power": powered,
}


@pytest.mark.parametrize("name", INTEGER_MEANING)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap_and_never_trap(name: str, dtype: DType, target: Target) -> None:
    a, b = integer_pairs(dtype)
    meaning = INTEGER_MEANING[name]
    expected = [wrapped(meaning(int(x), int(y)), dtype) for x, y in zip(a, b, strict=True)]
    assert both(name, target, a, b).tolist() == expected


@pytest.mark.parametrize("name", ["divide", "floor_divide", "remainder"])
@pytest.mark.parametrize("divisor", [-3, -1, 0, 1, 4])
def test_division_by_a_known_number(name: str, divisor: int, target: Target) -> None:
    a = np.array([-128, -127, -8, -7, -1, 0, 1, 7, 8, 127], np.int8)

    def divide(emit: Emit, x: Value) -> Value:
        result: Value = getattr(emit, name)(x, emit.like(x, divisor))
        return result

    meaning = INTEGER_MEANING[name]
    expected = [wrapped(meaning(int(x), divisor), dtypes.int8) for x in a]
    assert elementwise(divide, a, target=target).tolist() == expected


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_shifts_past_the_width(dtype: DType, target: Target) -> None:
    width = 8 * dtype.itemsize
    a, _ = integer_pairs(dtype)
    counts = np.resize(np.array([0, 1, 3, width - 1, width, width + 1, 100], dtype.storage), a.size)
    left = [
        wrapped(int(x) << int(n), dtype) if n < width else 0 for x, n in zip(a, counts, strict=True)
    ]
    right = [int(x) >> min(int(n), 127) for x, n in zip(a, counts, strict=True)]
    assert both("shift_left", target, a, counts).tolist() == left
    assert both("shift_right", target, a, counts).tolist() == right


@pytest.mark.parametrize(
    "name", ["negative", "absolute", "bit_not", "floor", "ceil", "round", "truncate"]
)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_unary_integers(name: str, dtype: DType, target: Target) -> None:
    a, _ = integer_pairs(dtype)
    meaning = {"negative": lambda x: -x, "absolute": abs, "bit_not": lambda x: ~x}
    expected = [wrapped(meaning.get(name, int)(int(x)), dtype) for x in a]
    assert both(name, target, a).tolist() == expected


def floats(dtype: DType) -> Array:
    """Special and ordinary numbers in the dtype's storage."""
    generator = np.random.default_rng(0)
    values = np.concatenate([SPECIAL, generator.standard_normal(200) * 100])
    return to_storage(torch.from_numpy(values).to(torch_dtype(dtype)))


def torch_dtype(dtype: DType) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype.name)
    return found


def to_storage(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def to_torch(array: Array, dtype: DType) -> torch.Tensor:
    if dtype is dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal bits, but that one NaN is as good as another."""
    assert ours.dtype == theirs.dtype
    if ours.dtype.is_floating_point:
        assert torch.equal(torch.isnan(ours), torch.isnan(theirs))
        ours, theirs = ours.double().nan_to_num(7.0), theirs.double().nan_to_num(7.0)
        assert torch.equal(torch.signbit(ours), torch.signbit(theirs))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=str)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("add", torch.add), ("subtract", torch.sub), ("multiply", torch.mul),
        ("divide", torch.div), ("less", torch.lt), ("less_equal", torch.le),
        ("equal", torch.eq), ("not_equal", torch.ne), ("atan2", torch.atan2),
    ],
)  # fmt: skip
def test_binary_floats(
    name: str, oracle: Callable[..., torch.Tensor], dtype: DType, target: Target
) -> None:
    grid = floats(dtype)[: len(SPECIAL) + 20]
    a, b = (side.ravel().copy() for side in np.meshgrid(grid, grid))
    expected = oracle(to_torch(a, dtype), to_torch(b, dtype))
    result = dtypes.by_name(str(expected.dtype).removeprefix("torch."))
    ours = elementwise(apply(name), a, b, dtype=dtype, result=result, target=target)
    if name == "atan2" and dtype is dtypes.float64:
        np.testing.assert_allclose(ours, expected.numpy(), rtol=5e-16)
    elif name == "atan2":
        torch.testing.assert_close(to_torch(ours, dtype), expected, equal_nan=True)
    else:
        assert_same(to_torch(ours, result), expected)


@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=str)
def test_extremes_keep_nan(dtype: DType, target: Target) -> None:
    grid = floats(dtype)[: len(SPECIAL)]
    a, b = (side.ravel().copy() for side in np.meshgrid(grid, grid))
    for name, oracle in (("maximum", torch.maximum), ("minimum", torch.minimum)):
        ours = elementwise(apply(name), a, b, dtype=dtype, target=target)
        expected = oracle(to_torch(a, dtype), to_torch(b, dtype))
        torch.testing.assert_close(to_torch(ours, dtype), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_of_equal_ones_the_first_is_kept(name: str, target: Target) -> None:
    zeros, negative_zeros = np.zeros(5, np.float32), -np.zeros(5, np.float32)
    for first, second in ((zeros, negative_zeros), (negative_zeros, zeros)):
        found = both(name, target, first, second)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(first))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_with_a_constant_are_those_with_its_value(name: str, target: Target) -> None:
    x = np.array(SPECIAL, np.float32)

    def with_constant(emit: Emit, value: Value) -> Value:
        result: Value = getattr(emit, name)(value, emit.like(value, 0.0))
        return result

    ours = elementwise(with_constant, x, target=target)
    theirs = both(name, target, x, np.zeros_like(x))
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=str)
def test_float_remainders_are_exact(dtype: DType, target: Target) -> None:
    generator = np.random.default_rng(0)
    a = np.exp2(generator.uniform(-120, 120, 3000)) * generator.choice([-1, 1], 3000)
    b = np.exp2(generator.uniform(-120, 120, 3000)) * generator.choice([-1, 1], 3000)
    a, b = a.astype(dtype.storage), b.astype(dtype.storage)
    ours = elementwise(apply("remainder"), a, b, dtype=dtype, target=target)
    np.testing.assert_array_equal(ours, np.remainder(a, b))
    grid = np.array([0, -0.0, 1, -1, 2.5, -2.5, np.inf, -np.inf, np.nan, 7, -7], dtype.storage)
    a, b = (side.ravel().copy() for side in np.meshgrid(grid, grid))
    for name, oracle in (("remainder", torch.remainder), ("floor_divide", torch.floor_divide)):
        ours = elementwise(apply(name), a, b, dtype=dtype, target=target)
        assert_same(torch.from_numpy(ours), oracle(torch.from_numpy(a), torch.from_numpy(b)))


@pytest.mark.parametrize("dtype", dtypes.FLOATS, ids=str)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("negative", torch.neg), ("absolute", torch.abs),
        ("floor", torch.floor), ("ceil", torch.ceil), ("round", torch.round),
        ("truncate", torch.trunc),
    ],
)  # fmt: skip
def test_unary_floats(
    name: str, oracle: Callable[..., torch.Tensor], dtype: DType, target: Target
) -> None:
    x = floats(dtype)
    ours = elementwise(apply(name), x, dtype=dtype, target=target)
    assert_same(to_torch(ours, dtype), oracle(to_torch(x, dtype)))


@pytest.mark.parametrize(
    "name", ["add", "multiply", "maximum", "minimum", "bit_xor", "equal", "less"]
)
def test_bool(name: str, target: Target) -> None:
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    meaning: dict[str, Callable[[Array, Array], Array]] = {
        "add": np.logical_or, "multiply": np.logical_and, "maximum": np.logical_or,
        "minimum": np.logical_and, "bit_xor": np.logical_xor, "equal": np.equal, "less": np.less,
    }  # fmt: skip
    np.testing.assert_array_equal(both(name, target, a, b), meaning[name](a, b))
    np.testing.assert_array_equal(both("logical_not", target, a), ~a)
    np.testing.assert_array_equal(both("bit_not", target, a), ~a)


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.float32, dtypes.float64], ids=str)
def test_sqrt_is_rounded_correctly(dtype: DType, target: Target) -> None:
    x = floats(dtype)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(both("sqrt", target, x), np.sqrt(x))


REAL = [t for t in dtypes.ALL if not t.is_complex]


@pytest.mark.parametrize("source", REAL, ids=str)
@pytest.mark.parametrize("result", REAL, ids=str)
def test_casts(source: DType, result: DType, target: Target) -> None:
    if source.is_floating_point:
        x = floats(source)
        if result.is_integer:  # beyond the range, conversions are nobody's promise
            info = np.iinfo(result.storage)
            wide = to_torch(x, source).double()
            x = x[((wide >= info.min) & (wide <= info.max / 2)).numpy()]
    elif source is dtypes.bool_:
        x = np.array([True, False, True])
    else:
        x, _ = integer_pairs(source)

    def convert(emit: Emit, value: Value) -> Value:
        return emit.cast(value, result)

    vector = elementwise(convert, x, dtype=source, result=result, target=target)
    if target is runnable()[0]:
        scalar = elementwise(convert, x, dtype=source, result=result, target=target, lanes=1)
        np.testing.assert_array_equal(vector, scalar)
    assert_same(to_torch(vector, result), to_torch(x, source).to(torch_dtype(result)))


def test_all_halves_convert_exactly(target: Target) -> None:
    bits = np.arange(65536).astype(np.uint16)
    for dtype in (dtypes.float16, dtypes.bfloat16):
        x = bits.view(dtype.storage)
        wide = elementwise(
            lambda emit, v: emit.cast(v, dtypes.float32),
            x, dtype=dtype, result=dtypes.float32, target=target,
        )  # fmt: skip
        assert_same(torch.from_numpy(wide), to_torch(x, dtype).float())
        # Points between two halves, and just beside them, round to the nearest even one.
        finite = wide[np.isfinite(wide)]
        for factor in (1.0, 1 + 2.0**-9, 1 + 2.0**-11, 1 + 2.0**-12, 1 - 2.0**-11):
            y = finite * np.float32(factor)
            narrow = elementwise(
                lambda emit, v, dtype=dtype: emit.cast(v, dtype), y, result=dtype, target=target
            )
            assert_same(to_torch(narrow, dtype), torch.from_numpy(y).to(torch_dtype(dtype)))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_casts_beyond_the_range_give_its_ends(source: type, dtype: DType, target: Target) -> None:
    info = np.iinfo(dtype.storage)
    ends = [float(info.min), float(info.max), 2.0**31, 2.0**32, 2.0**63, 2.0**64, 1e30, np.inf]
    x: Array = np.array([s * e for e in ends for s in (1, -1)] + [-0.5, 200.7, -200.7], source)
    ours = elementwise(lambda emit, value: emit.cast(value, dtype), x, result=dtype, target=target)
    assert ours.tolist() == [
        min(max(int(min(max(float(value), -1e40), 1e40)), int(info.min)), int(info.max))
        for value in x
    ]
    nan: Array = np.array([np.nan], source)
    assert elementwise(lambda emit, value: emit.cast(value, dtype), nan, result=dtype)[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
def test_scaling_rounds_denormal_results_once(dtype: type, lanes: int, target: Target) -> None:
    x = np.linspace(0.7, 1.5, 3001).astype(dtype)
    least = -149 if dtype is np.float32 else -1074
    exponents = np.arange(3001).astype(dtype) % 40 + (least - 5)

    def call(emit: Emit, a: Value, b: Value) -> Value:
        return scale(emit, a, Whole(b, emit.cast(b, format_of(b).integer)))

    ours = elementwise(call, x, exponents, target=target, lanes=lanes)
    np.testing.assert_array_equal(ours, np.ldexp(x, exponents.astype(int)))


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
def test_lookups_count_with_three_bits(lanes: int, target: Target) -> None:
    table = np.linspace(-3, 5, 8).astype(np.float32)
    positions = np.random.default_rng(0).integers(0, 8, 1003)

    def call(emit: Emit, position: Value) -> Value:
        return emit.lookup(table.tolist(), emit.cast(position, dtypes.int32))

    ours = elementwise(call, positions.astype(np.float32), target=target, lanes=lanes)
    np.testing.assert_array_equal(ours, table[positions])

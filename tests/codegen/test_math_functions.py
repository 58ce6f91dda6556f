"""Elementary functions: error in units in the last place, special values, the same bits everywhere.

Over all 2^32 float32 inputs the largest errors are (`tests/codegen/exhaustive.py`): log 0.81, erf
0.91, exp 1.04, log1p 1.39, tanh 1.49, sin 1.58, cos 1.58, expm1 1.58, erfinv 1.69.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.codegen.target import named
from tests.codegen.harness import elementwise, runnable

Array = np.ndarray[Any, Any]

UNARY = [
    "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "erfinv", "lgamma", "digamma",
]  # fmt: skip
BINARY = ["power", "atan2"]
SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 0.5, -0.5, 1.5, -1.5, np.inf, -np.inf, np.nan,
    3e38, -3e38, 1e-45, -1e-45, 1e-39, -1e-39, 2.0**24, -(2.0**24) + 1, 88.72284, -103.97,
    9.01, 1.17549435e-38,
]  # fmt: skip


def apply(name: str) -> Callable[..., Value]:
    """The method of `Emit` of that name, as a function of the emitter and values."""

    def call(emit: Emit, *values: Value) -> Value:
        result: Value = getattr(emit, name)(*values)
        return result

    return call


def stratified(count: int = 1_000_000) -> Array:
    """float32 of every exponent and sign, the neighbours of 1, and special values."""
    generator = np.random.default_rng(0)
    anywhere = generator.integers(0, 2**32, count, dtype=np.uint32)
    exponents = np.repeat(np.arange(512, dtype=np.uint32) << 23, 500)
    each = exponents | generator.integers(0, 2**23, exponents.size, dtype=np.uint32)
    one = np.float32(1).view(np.uint32) + np.arange(4000, dtype=np.uint32) - np.uint32(2000)
    bits = np.concatenate([anywhere, each, one])
    return np.concatenate([bits.view(np.float32), np.array(SPECIAL, np.float32)])


def errors(ours: Array, exact: Array) -> Array:
    """Errors of float32 results in units in the last place; infinite where one is not finite."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    unit = np.spacing(np.minimum(np.abs(rounded), np.float32(3e38))).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(ours.astype(np.float64) - exact) / unit
    same = (ours == rounded) | (np.isnan(ours) & np.isnan(rounded))
    return np.where(np.isfinite(error), error, np.where(same, 0.0, np.inf))


@pytest.mark.parametrize("name", UNARY)
def test_float32_is_within_two_units(name: str) -> None:
    x = stratified()
    ours = elementwise(apply(name), x)
    exact = getattr(torch, name)(torch.from_numpy(x).double()).numpy()
    error = errors(ours, exact)
    worst = int(error.argmax())
    assert error[worst] <= 2, f"{name}({x[worst]!r}) = {ours[worst]!r}, not {exact[worst]!r}"
    zero = (ours == 0) & (exact == 0)
    np.testing.assert_array_equal(np.signbit(ours[zero]), np.signbit(exact[zero]))


def test_float32_power_is_within_two_units() -> None:
    generator = np.random.default_rng(1)
    base = np.exp2(generator.uniform(-149, 128, 500_000)).astype(np.float32)
    reach = 105 / np.maximum(np.abs(np.log(base.astype(np.float64))), 1e-6)
    exponent = (generator.uniform(-1, 1, base.size) * reach).astype(np.float32)
    ours = elementwise(apply("power"), base, exponent)
    exact = np.power(base.astype(np.float64), exponent.astype(np.float64))
    assert errors(ours, exact).max() <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BINARY)
def test_pairs_of_special_values(name: str, dtype: type) -> None:
    grid: Array = np.array(SPECIAL, dtype)
    a, b = (side.ravel().copy() for side in np.meshgrid(grid, grid))
    oracle = {"power": torch.pow, "atan2": torch.atan2}[name]
    expected = oracle(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    ours = elementwise(apply(name), a, b)
    np.testing.assert_allclose(ours, expected, rtol=float(4 * np.finfo(dtype).eps), atol=0)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(expected[known]))


@pytest.mark.parametrize("name", UNARY)
def test_float64_special_values(name: str) -> None:
    x = np.array(SPECIAL)
    expected = getattr(torch, name)(torch.from_numpy(x)).numpy()
    ours = elementwise(apply(name), x)
    tolerance = 2e-14 if name == "digamma" else 2e-15
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=0)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(expected[known]))


def spread(count: int, low: float, high: float, signed: bool = True) -> Array:
    """Numbers whose exponents spread evenly."""
    generator = np.random.default_rng(2)
    values = np.exp2(generator.uniform(low, high, count))
    return values * generator.choice([-1.0, 1.0], count) if signed else values


def exact_erfinv(x: Any) -> Any:
    guess = mpmath.mpf(torch.erfinv(torch.tensor(float(x), dtype=torch.float64)).item())
    for _ in range(5):
        guess -= (mpmath.erf(guess) - x) * mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(guess**2)
    return guess


# name: exact function, inputs, bound in units in the last place, binary digits of the oracle
DOUBLE: dict[str, tuple[Callable[[Any], Any], Array, float, int]] = {
    "exp": (mpmath.exp, spread(300, -30, 9.4), 1.5, 200),
    "expm1": (mpmath.expm1, spread(300, -60, 9.4), 1.5, 200),
    "log": (mpmath.log, spread(300, -1074, 1023, signed=False), 1.5, 200),
    "log1p": (mpmath.log1p, spread(300, -60, 1000, signed=False), 1.5, 200),
    "sin": (mpmath.sin, spread(400, -30, 1023), 1.5, 1300),
    "cos": (mpmath.cos, spread(400, -30, 1023), 1.5, 1300),
    "tanh": (mpmath.tanh, spread(300, -30, 5), 1.5, 200),
    "erf": (mpmath.erf, spread(300, -30, 2.6), 1.9, 200),
    "erfinv": (exact_erfinv, spread(200, -30, 0), 4, 200),
    "lgamma": (mpmath.loggamma, spread(200, -30, 8, signed=False), 4, 200),
}


def unit_errors(ours: Array, exact: list[Any]) -> list[float]:
    """Errors of float64 results in units in the last place."""
    return [
        float(abs(mpmath.mpf(float(y)) - e) / mpmath.mpf(float(np.spacing(abs(float(e))))))
        for y, e in zip(ours, exact, strict=True)
    ]


@pytest.mark.parametrize("name", DOUBLE)
def test_float64_against_more_digits(name: str) -> None:
    exact, x, bound, digits = DOUBLE[name]
    ours = elementwise(apply(name), x)
    with mpmath.workprec(digits):
        wanted = [exact(mpmath.mpf(float(value))) for value in x]
        assert max(unit_errors(ours, wanted)) <= bound


def test_float64_multiples_of_half_pi() -> None:
    """Where sine or cosine nearly vanishes, all digits of the angle's reduction count."""
    x = np.concatenate([np.arange(1, 200), [1e5, 1e6, 1e10, 1e15]]) * (math.pi / 2)
    for name, exact in (("sin", mpmath.sin), ("cos", mpmath.cos)):
        with mpmath.workprec(300):
            wanted = [exact(mpmath.mpf(float(value))) for value in x]
            assert max(unit_errors(elementwise(apply(name), x), wanted)) <= 1.5


def test_float64_power_against_more_digits() -> None:
    generator = np.random.default_rng(3)
    base = np.concatenate([spread(300, -300, 300, signed=False), 1 + spread(300, -40, -1)])
    reach = 700 / np.maximum(np.abs(np.log(base)), 1e-12)
    exponent = generator.uniform(-1, 1, base.size) * reach
    ours = elementwise(apply("power"), base, exponent)
    with mpmath.workprec(300):
        wanted = [
            mpmath.power(mpmath.mpf(float(a)), mpmath.mpf(float(b)))
            for a, b in zip(base, exponent, strict=True)
        ]
        assert max(unit_errors(ours, wanted)) <= 1.5


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_polygamma(order: int) -> None:
    x = np.concatenate([spread(60, -4, 6), [0.5, 1.0, 10.0, -0.25, -7.3]])

    def call(emit: Emit, value: Value) -> Value:
        return emit.polygamma(value, order=order)

    with mpmath.workprec(200):
        wanted = np.array([float(mpmath.psi(order, mpmath.mpf(float(value)))) for value in x])
    np.testing.assert_allclose(elementwise(call, x), wanted, rtol=2e-13)
    np.testing.assert_allclose(
        elementwise(call, x.astype(np.float32)),
        elementwise(call, x.astype(np.float32).astype(np.float64)).astype(np.float32),
    )
    edges = elementwise(call, np.array([0.0, -1.0, -2.0, np.inf, np.nan]))
    sign = 1 if order % 2 else -1
    np.testing.assert_array_equal(edges, [sign * np.inf] * 3 + [0.0, np.nan])


def test_digamma_is_accurate_but_for_its_zeros() -> None:
    x = np.concatenate([spread(200, -20, 6), [1.0, 2.0, 0.5, -0.5]])
    with mpmath.workprec(200):
        wanted = np.array([float(mpmath.digamma(mpmath.mpf(float(value)))) for value in x])
    np.testing.assert_allclose(elementwise(apply("digamma"), x), wanted, rtol=1e-13, atol=1e-14)


def bits(values: Array) -> Array:
    """Bits, with one NaN for all."""
    plain = np.where(np.isnan(values), 0, values).astype(values.dtype)
    return plain.view(f"u{values.itemsize}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", UNARY + BINARY)
def test_same_bits_for_every_width_and_feature_set(name: str, dtype: type) -> None:
    x = stratified(4000)[::40]
    with np.errstate(invalid="ignore"):
        operands: list[Array] = [x.astype(dtype), np.roll(x, 1).astype(dtype)][
            : 1 + (name in BINARY)
        ]
    fused = [target for target in runnable() if target.has_fma]
    results = [
        elementwise(apply(name), *operands, target=target, lanes=lanes)
        for target in fused
        for lanes in (target.lanes, 1, 2 * target.lanes)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(bits(result), bits(results[0]))


@pytest.mark.skipif(named("x86") not in runnable(), reason="not an x86 machine")
@pytest.mark.parametrize("name", UNARY)
def test_without_fused_multiply_add_accuracy_stays(name: str) -> None:
    x = stratified(100_000)
    exact = getattr(torch, name)(torch.from_numpy(x).double()).numpy()
    assert errors(elementwise(apply(name), x, target=named("x86")), exact).max() <= 3


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin"])
@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=str)
def test_halves_compute_in_float32(name: str, dtype: dtypes.DType) -> None:
    x = np.arange(65536).astype(np.uint16).view(dtype.storage)
    ours = elementwise(apply(name), x, dtype=dtype)

    def in_single(emit: Emit, value: Value) -> Value:
        result: Value = getattr(emit, name)(emit.cast(value, dtypes.float32))
        return emit.cast(result, dtype)

    np.testing.assert_array_equal(ours, elementwise(in_single, x, dtype=dtype))

"""Contractions: right against exact arithmetic, and equal bits from every kernel that there is."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen import contraction, target as targets
from avalon.codegen.contraction import Fused, View
from avalon.codegen.contraction_problem import reduction_blocks
from avalon.codegen.emit import Emit, Value
from avalon.dtype import DType
from avalon.ops.contraction import convolve
from avalon.runtime import library
from avalon.runtime.plan import Argument
from tests.codegen.contraction_harness import (
    as_stored,
    fma,
    ordered_sum,
    outputs_of,
    random_array,
    run,
    view_of,
    widened,
)

HOST = targets.host()
WITH_FMA = [t for t in (HOST, targets.named("avx2")) if t.has_fma and HOST.is_x86]
CONTRACT = (contraction.cold_contract, contraction.hot_contract)
CONVOLVE = (contraction.cold_convolve, contraction.hot_convolve)


def contracted(
    lower: Any, target: Any, a: np.ndarray, b: np.ndarray, dtype: DType, pieces: int = 1
) -> np.ndarray:
    """a @ b by one of the lowerings; a and b are views of contiguous arrays."""
    shape = (a.shape[0], a.shape[1], a.shape[2], b.shape[2])
    y = np.full((a.shape[0], a.shape[1], b.shape[2]), 0x55, dtype.storage)
    bases = [v if v.base is None else v.base for v in (a, b)]
    lowering = lower(
        target, dtype, shape, view_of(0, a, bases[0]), view_of(1, b, bases[1]),
        View.contiguous(2, y.shape), 3,
    )  # fmt: skip
    run(target, lowering, [*bases, y], pieces)
    return y


def convolved(
    lower: Any, target: Any, x: np.ndarray, w: np.ndarray, dtype: DType, pieces: int = 1,
    **parameters: Any,
) -> np.ndarray:  # fmt: skip
    """The convolution by one of the lowerings."""
    y = np.full(outputs_of(x.shape, w.shape, parameters), 0x55, dtype.storage)
    bases = [v if v.base is None else v.base for v in (x, w)]
    parameters = {k: v for k, v in parameters.items() if k != "high"}
    lowering = lower(
        target, dtype, (x.shape, w.shape, y.shape), view_of(0, x, bases[0]),
        view_of(1, w, bases[1]), View.contiguous(2, y.shape), 4, **parameters,
    )  # fmt: skip
    run(target, lowering, [*bases, y, y.copy()], pieces)
    return y


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays hold the same bytes."""
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def every_kernel(lowerings: Any, apply: Any, *arrays: np.ndarray, dtype: DType = dtypes.float32,
                 **parameters: Any) -> np.ndarray:  # fmt: skip
    """The result, after a check that all tiers, feature sets and cuts of the work agree on it."""
    results = [
        apply(lower, target, *arrays, dtype, pieces, **parameters)
        for pieces, (lower, target) in enumerate(itertools.product(lowerings, WITH_FMA), 1)
    ]
    assert all(same_bits(results[0], other) for other in results[1:])
    return results[0]


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1), (1, 4, 5, 6), (2, 33, 70, 17), (1, 100, 784, 50), (1, 1, 500, 130),
        (1, 130, 500, 1), (3, 17, 1, 9), (1, 64, 64, 64), (1, 5, 3100, 7), (1, 129, 400, 257),
        (1, 2, 770, 100), (4, 30, 8, 40), (1, 3, 20, 512), (1, 200, 40, 3), (1, 12, 1024, 48),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("a_turned", "b_turned"), list(itertools.product((False, True), repeat=2)))
def test_matrix_products_of_all_layouts(
    shape: tuple[int, ...], a_turned: bool, b_turned: bool
) -> None:
    batch, m, k, n = shape
    rng = np.random.default_rng(sum(shape))
    a = rng.standard_normal((batch, k, m) if a_turned else (batch, m, k)).astype("f")
    b = rng.standard_normal((batch, n, k) if b_turned else (batch, k, n)).astype("f")
    a = a.transpose(0, 2, 1) if a_turned else a
    b = b.transpose(0, 2, 1) if b_turned else b
    found = every_kernel(CONTRACT, contracted, a, b)
    exact = a.astype("d") @ b.astype("d")
    allowed = 4 * np.finfo("f").eps * np.log2(k + 2) * (abs(a).astype("d") @ abs(b).astype("d"))
    assert (abs(found - exact) <= allowed).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_empty_matrix_products(shape: tuple[int, ...]) -> None:
    batch, m, k, n = shape
    a, b = np.ones((batch, m, k), "f"), np.ones((batch, k, n), "f")
    assert same_bits(every_kernel(CONTRACT, contracted, a, b), (a @ b).astype("f"))


@pytest.mark.parametrize("shape", [(1, 3, 500, 4), (1, 2, 3500, 2), (2, 2, 385, 3)])
def test_the_promised_order_of_a_matrix_product(shape: tuple[int, ...]) -> None:
    batch, m, k, n = shape
    rng = np.random.default_rng(k)
    a, b = (rng.standard_normal(s).astype("f") for s in ((batch, m, k), (batch, k, n)))
    found = every_kernel(CONTRACT, contracted, a, b)
    for g, i, j in np.ndindex(found.shape):
        products = {(c, 0, 0, 0): (a[g, i, c], b[g, c, j]) for c in range(k)}
        expected = ordered_sum((k, 1, 1, 1), found.size, products)
        assert found[g, i, j].tobytes() == expected.tobytes()


def test_the_promised_order_of_a_convolution() -> None:
    rng = np.random.default_rng(3)
    parameters = {
        "stride": (2, 1),
        "input_dilation": (1, 1),
        "kernel_dilation": (1, 2),
        "low": (1, -1),
        "high": (0, 2),
        "flip": True,
    }
    x = rng.standard_normal((1, 2, 50, 5, 7)).astype("f")
    w = rng.standard_normal((1, 3, 50, 3, 3)).astype("f")
    found = every_kernel(CONVOLVE, convolved, x, w, **parameters)
    padded = np.zeros((1, 2, 50, 6, 8), "f")
    padded[:, :, :, 1:6, 0:6] = x[..., 1:]
    for _, image, o, p, q in np.ndindex(found.shape):
        products = {
            (c, 0, s, t): (padded[0, image, c, p * 2 + s, q + 2 * t], w[0, o, c, 2 - s, 2 - t])
            for c, s, t in np.ndindex(50, 3, 3)
        }
        expected = ordered_sum((50, 1, 3, 3), found.size, products)
        assert found[0, image, o, p, q].tobytes() == expected.tobytes()


def test_the_reference_for_fused_multiply_adds_rounds_once() -> None:
    tiny = np.float32(2.0**-12)
    one = np.float32(1)
    # (1 + t)(1 - t) = 1 - t * t: lost if the product is rounded first.
    assert fma(one + tiny, one - tiny, -one) == -np.float32(2.0**-24)
    # Halfway cases that float64 alone would round twice.
    assert fma(np.float32(1 + 2.0**-23), np.float32(1 + 2.0**-23), np.float32(2.0**-60)) > 1


def test_blocks_cut_the_whole_sum() -> None:
    for extents in itertools.product((0, 1, 5, 400, 1000), (1, 3), (1, 7, 400), (1, 2, 385)):
        blocks = reduction_blocks(extents, 100)  # type: ignore[arg-type]
        for extent, length, count in zip(extents, blocks.lengths, blocks.counts, strict=True):
            assert extent <= length * count < extent + max(length, 1)
        assert blocks.longest <= 384
        covered = blocks.per_span * blocks.spans
        assert not blocks.total or blocks.total <= covered < blocks.total + blocks.per_span


def _random_convolution(rng: np.random.Generator) -> tuple[tuple, tuple, dict[str, Any]] | None:
    rank = int(rng.integers(1, 4))
    most = {1: 40, 2: 12, 3: 6}[rank]
    groups, images, depth, channels = (int(n) for n in rng.integers(1, [4, 4, 6, 40]))
    sizes, taps = rng.integers(1, most, rank).tolist(), rng.integers(1, 5, rank).tolist()
    parameters = {
        "stride": tuple(rng.integers(1, 4, rank).tolist()),
        "input_dilation": tuple(rng.choice([1, 1, 1, 2, 3], rank).tolist()),
        "kernel_dilation": tuple(rng.choice([1, 1, 2], rank).tolist()),
        "low": tuple(rng.integers(-2, 4, rank).tolist()),
        "high": tuple(rng.integers(-2, 4, rank).tolist()),
        "flip": bool(rng.integers(0, 2)),
    }
    x, w = (groups, images, depth, *sizes), (groups, channels, depth, *taps)
    return (x, w, parameters) if prod(outputs_of(x, w, parameters)) else None


@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    done = 0
    while done < 20:
        drawn = _random_convolution(rng)
        if drawn is None:
            continue
        done += 1
        x_shape, w_shape, parameters = drawn
        x, w = (rng.standard_normal(shape).astype("f") for shape in (x_shape, w_shape))
        found = every_kernel(CONVOLVE, convolved, x, w, **parameters)
        exact = convolve.reference(x.astype("d"), w.astype("d"), **parameters)
        bound = convolve.reference(abs(x).astype("d"), abs(w).astype("d"), **parameters)
        assert (abs(found - exact) <= 1e-6 * bound + 1e-30).all(), drawn


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((1, 2, 0, 5, 5), (1, 3, 0, 3, 3)),  # nothing is summed
        ((1, 2, 4, 0, 3), (1, 3, 4, 3, 3)),  # only padding is seen
        ((1, 0, 4, 5, 5), (1, 3, 4, 3, 3)),
        ((0, 2, 4, 5, 5), (0, 3, 4, 3, 3)),
        ((1, 2, 4, 5, 5), (1, 0, 4, 3, 3)),
    ],
)
def test_empty_convolutions(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    x, w = np.ones(x_shape, "f"), np.ones(w_shape, "f")
    two, one = (2, 2), (1, 1)
    found = every_kernel(CONVOLVE, convolved, x, w, stride=one, input_dilation=one,
                         kernel_dilation=one, low=two, high=two, flip=False)  # fmt: skip
    assert not found.any()
    assert found.shape[:3] == (x_shape[0], x_shape[1], w_shape[1])


# Images, channels in and out, size, taps, padding, stride: layers of real networks, made small.
LAYERS = [
    (4, 1, 16, 28, 3, 1, 1), (3, 16, 32, 14, 3, 1, 1), (20, 32, 32, 7, 3, 1, 1),
    (2, 1, 20, 28, 5, 0, 1), (2, 20, 50, 12, 5, 0, 1), (2, 3, 64, 32, 7, 3, 2),
    (2, 64, 64, 8, 1, 0, 2), (2, 8, 24, 9, 3, 2, 3), (1, 70, 130, 5, 3, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["forward", "input", "kernel"])
def test_the_three_convolutions_of_a_training_step(layer: tuple[int, ...], kind: str) -> None:
    images, depth, channels, size, taps, padding, stride = layer
    rng = np.random.default_rng(sum(layer))
    x = rng.standard_normal((1, images, depth, size, size)).astype("f")
    w = rng.standard_normal((1, channels, depth, taps, taps)).astype("f")
    one, low, step = (1, 1), (padding, padding), (stride, stride)
    forward = {
        "stride": step,
        "input_dilation": one,
        "kernel_dilation": one,
        "low": low,
        "high": low,
        "flip": False,
    }
    shape = outputs_of(x.shape, w.shape, forward)
    rest = (size + 2 * padding - taps) % stride
    dy = rng.standard_normal(shape).astype("f")
    if kind == "forward":
        arrays, parameters = (x, w), forward
    elif kind == "input":
        back = taps - 1 - padding
        arrays = (dy, w.swapaxes(1, 2))
        parameters = {
            "stride": one,
            "input_dilation": step,
            "kernel_dilation": one,
            "low": (back, back),
            "high": (back + rest, back + rest),
            "flip": True,
        }
    else:
        arrays = (x.swapaxes(1, 2), dy.swapaxes(1, 2))
        high = (padding - rest, padding - rest)
        parameters = {
            "stride": one,
            "input_dilation": one,
            "kernel_dilation": step,
            "low": low,
            "high": high,
            "flip": False,
        }
    found = every_kernel(CONVOLVE, convolved, *arrays, **parameters)
    wide = [array.astype("d") for array in arrays]
    exact = convolve.reference(*wide, **parameters)
    bound = convolve.reference(*map(abs, wide), **parameters)
    assert (abs(found - exact) <= 1e-6 * bound + 1e-30).all()


@pytest.mark.parametrize(
    "dtype",
    [dtypes.float64, dtypes.float16, dtypes.bfloat16, dtypes.int8, dtypes.uint8, dtypes.int16,
     dtypes.int32, dtypes.int64],
    ids=lambda dtype: dtype.name,
)  # fmt: skip
def test_every_dtype(dtype: DType) -> None:
    rng = np.random.default_rng(5)
    a, b = random_array(rng, (2, 19, 900), dtype), random_array(rng, (2, 900, 35), dtype)
    found = every_kernel(CONTRACT, contracted, a, b, dtype=dtype)
    _check(found, np.matmul(widened(a, dtype), widened(b, dtype)), dtype)
    parameters = {
        "stride": (2, 1),
        "input_dilation": (1, 1),
        "kernel_dilation": (1, 1),
        "low": (1, 1),
        "high": (1, 1),
        "flip": False,
    }
    x, w = random_array(rng, (1, 3, 5, 9, 11), dtype), random_array(rng, (1, 18, 5, 3, 3), dtype)
    found = every_kernel(CONVOLVE, convolved, x, w, dtype=dtype, **parameters)
    _check(found, convolve.reference(widened(x, dtype), widened(w, dtype), **parameters), dtype)
    # A sum of many blocks and few outputs, kept in spans.
    a, b = random_array(rng, (1, 3, 4000), dtype), random_array(rng, (1, 4000, 5), dtype)
    found = every_kernel(CONTRACT, contracted, a, b, dtype=dtype)
    _check(found, np.matmul(widened(a, dtype), widened(b, dtype)), dtype)


def _check(found: np.ndarray, exact: np.ndarray, dtype: DType) -> None:
    if not dtype.is_floating_point:
        assert (found == as_stored(exact, dtype)).all()
        return
    scale = {"float64": 1e-12, "float16": 2e-3, "bfloat16": 1e-2}[dtype.name]
    assert (abs(widened(found, dtype) - exact) <= scale * (abs(exact) + 3)).all()


@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[1], LAYERS[3], LAYERS[8]])
def test_an_epilogue_sees_every_element_once(layer: tuple[int, ...]) -> None:
    images, depth, channels, size, taps, padding, stride = layer
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, images, depth, size, size)).astype("f")
    w = rng.standard_normal((1, channels, depth, taps, taps)).astype("f")
    parameters: dict[str, Any] = {
        "stride": (stride, stride),
        "input_dilation": (1, 1),
        "kernel_dilation": (1, 1),
        "low": (padding, padding),
        "high": (padding, padding),
        "flip": False,
    }
    y = np.zeros(outputs_of(x.shape, w.shape, parameters), "f")
    written = y.copy()
    view = View.contiguous(2, y.shape)
    parameters.pop("high")
    shapes = (x.shape, w.shape, y.shape)
    views = (View.contiguous(0, x.shape), View.contiguous(1, w.shape), view)
    plain = contraction.hot_convolve(HOST, dtypes.float32, shapes, *views, 4, **parameters)
    run(HOST, plain, [x, w, y, written])
    lowering = contraction.hot_convolve(
        HOST, dtypes.float32, shapes, *views, 4, _adds_to(view.strides, 3), **parameters
    )
    run(HOST, lowering, [x, w, y, written], 3)
    assert same_bits(written, y + y + np.float32(1))


@pytest.mark.parametrize("shape", [(2, 30, 70, 50), (1, 200, 33, 5), (1, 3, 4000, 20)])
def test_an_epilogue_of_a_matrix_product(shape: tuple[int, int, int, int]) -> None:
    batch, m, k, n = shape
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype("f") for s in ((batch, m, k), (batch, k, n)))
    y, written = np.zeros((batch, m, n), "f"), np.zeros((batch, m, n), "f")
    views = [View.contiguous(i, s.shape) for i, s in enumerate((a, b, y))]
    plain = contraction.hot_contract(HOST, dtypes.float32, shape, *views, 4)
    run(HOST, plain, [a, b, y, written])
    fused = _adds_to(views[2].strides, 3)
    lowering = contraction.hot_contract(HOST, dtypes.float32, shape, *views, 4, fused)
    run(HOST, lowering, [a, b, y, written], 2)
    assert same_bits(written, y + y + np.float32(1))


def _adds_to(strides: tuple[int, ...], buffer: int) -> Fused:
    """An epilogue that adds twice the element, and 1 for each time it is asked to."""

    def write(
        emit: Emit, value: Value, index: tuple[Value, ...], axis: int, mask: Value | None
    ) -> None:
        assert axis == len(index) - 1 == len(strides) - 1
        place = emit.constant(0, dtypes.int64)
        for number, stride in zip(index, strides, strict=True):
            place = emit.add(place, emit.multiply(number, stride))
        target = emit.pointer(contraction.FIRST_SLOT)
        before = emit.load(target, place, value.dtype, value.lanes, mask)
        added = emit.add(before, emit.constant(1.0, value.dtype, value.lanes))
        emit.store(target, place, emit.add(emit.add(value, value), added), mask)

    return Fused(write, (Argument("buffer", buffer, written=True),), f"fused_{buffer}")


def test_holes_and_epilogues_do_not_go_together() -> None:
    parameters = {"stride": (1,), "kernel_dilation": (1,), "low": (0,), "flip": False}
    assert not contraction.can_fuse((2,))
    with pytest.raises(ValueError, match="holes"):
        contraction.hot_convolve(
            HOST, dtypes.float32, ((1, 1, 1, 3), (1, 1, 1, 1), (1, 1, 1, 5)),
            *(View(slot, (0, 0, 0, 1)) for slot in range(3)), 3, _adds_to((0, 0, 0, 1), 3),
            input_dilation=(2,), **parameters,
        )  # fmt: skip


def test_padding_is_zero_and_holes_are_nothing() -> None:
    x = np.ones((1, 1, 1, 3), "f")
    w = np.full((1, 1, 1, 2), np.inf, "f")
    parameters = {"stride": (1,), "kernel_dilation": (1,), "flip": False}
    padded = every_kernel(CONVOLVE, convolved, x, w, input_dilation=(1,), low=(1,), high=(0,),
                          **parameters)  # fmt: skip
    np.testing.assert_array_equal(padded[0, 0, 0], [np.nan, np.inf, np.inf])
    spread = every_kernel(CONVOLVE, convolved, x, w, input_dilation=(2,), low=(0,), high=(0,),
                          **parameters)  # fmt: skip
    np.testing.assert_array_equal(spread[0, 0, 0], [np.inf] * 4)


def test_a_shape_that_comes_back_gets_a_kernel_of_its_own() -> None:
    contraction.forget()
    views = (View(0, (0, 40, 1)), View(1, (0, 30, 1)), View(2, (0, 30, 1)))
    shape = (1, 20, 40, 30)
    kernels = [
        contraction.cold_contract(HOST, dtypes.float32, shape, *views, 3).kernels[0].symbol
        for _ in range(20)
    ]
    assert len(set(kernels)) == 2
    hot = contraction.hot_contract(HOST, dtypes.float32, shape, *views, 3)
    assert kernels[0] != kernels[-1] == hot.kernels[0].symbol
    contraction.forget()
    again = contraction.cold_contract(HOST, dtypes.float32, shape, *views, 3)
    assert again.kernels[0].symbol == kernels[0]


def test_kernels_for_other_architectures_are_assembled() -> None:
    target = targets.named("neon")
    views = (View(0, (0, 40, 1)), View(1, (0, 1, 40)), View(2, (0, 30, 1)))
    shapes = ((1, 2, 3, 9, 9), (1, 5, 3, 3, 3), (1, 2, 5, 7, 7))
    window = {"stride": (1, 1), "input_dilation": (1, 1), "kernel_dilation": (1, 1)}
    for lower, convolve_lower in zip(CONTRACT, CONVOLVE, strict=True):
        lowerings = [
            lower(target, dtypes.float32, (1, 20, 40, 30), *views, 3),
            convolve_lower(
                target, dtypes.float32, shapes, *(View.contiguous(0, s) for s in shapes), 3,
                low=(0, 0), flip=False, **window,
            ),
        ]  # fmt: skip
        for lowering in lowerings:
            for kernel in lowering.kernels:
                assert library.object_code(kernel.text, target)


def test_targets_without_fused_multiply_add() -> None:
    target = targets.named("x86")
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((1, 9, 50)).astype("f"), rng.standard_normal((1, 50, 70)).astype("f")
    results = [contracted(lower, target, a, b, dtypes.float32) for lower in CONTRACT]
    assert same_bits(*results)
    np.testing.assert_allclose(results[0], a @ b, atol=1e-5)


@pytest.mark.parametrize("k", [3, 600])
def test_a_sum_that_vanishes_is_positive_zero(k: int) -> None:
    """Whether it is stored from registers, or added to other blocks."""
    tiny = np.finfo(np.float32).smallest_subnormal
    a, b = np.full((1, 5, k), -tiny, "f"), np.full((1, k, 40), 0.25, "f")
    found = every_kernel(CONTRACT, contracted, a, b)
    np.testing.assert_array_equal(found, 0)
    assert not np.signbit(found).any()

"""Convolutions of few products read x in place: the bits of every other kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen import target as targets
from avalon.codegen.contraction import Lowering, View, cold_convolve, hot_convolve
from avalon.codegen.contraction_direct import Direct, DirectKernel, direct, units
from avalon.codegen.contraction_problem import Problem, convolve_problems
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime import library
from avalon.runtime.plan import Argument, Launch
from tests.codegen.contraction_harness import outputs_of, random_array, run

TARGETS = [targets.named(name) for name in ("avx512", "avx2")]
RUNNING = [t for t in TARGETS if targets.host().is_x86 and t.lanes <= targets.host().lanes]

# x [G, N, C, *S], w [G, O, C, *T], stride, dilation, low padding
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Sequence[int], Sequence[int], Any]] = {
    "narrow": ((5, 2, 1, 9, 12), (5, 1, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "two vectors": ((3, 2, 1, 11, 28), (3, 2, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "many tiles": ((2, 1, 1, 7, 150), (2, 1, 1, 3, 5), (1, 1), (1, 1), (1, 2)),
    "strides": ((3, 2, 1, 15, 57), (3, 1, 1, 3, 3), (2, 2), (1, 1), (1, 1)),
    "many tiles in strides": ((2, 1, 1, 6, 203), (2, 1, 1, 5, 3), (3, 2), (1, 1), (0, 1)),
    "dilated": ((2, 2, 1, 12, 40), (2, 1, 1, 3, 3), (1, 1), (3, 4), (3, 4)),
    "no padding": ((2, 2, 1, 10, 35), (2, 1, 1, 2, 4), (1, 1), (1, 1), (0, 0)),
    "cut edges": ((2, 2, 1, 10, 35), (2, 1, 1, 2, 3), (1, 1), (1, 1), (-1, -2)),
    "padding wider than x": ((2, 2, 1, 3, 9), (2, 1, 1, 3, 3), (1, 1), (1, 1), (8, 20)),
    "many channels": ((1, 3, 1, 8, 20), (1, 20, 1, 3, 3), (1, 1), (1, 1), (1, 1)),
    "channels of the sum": ((1, 2, 3, 8, 20), (1, 2, 3, 3, 3), (1, 1), (1, 1), (1, 1)),
    "one axis": ((4, 2, 1, 70), (4, 1, 1, 9), (1,), (1,), (4,)),
    "three axes": ((2, 1, 1, 5, 6, 30), (2, 1, 1, 3, 3, 3), (2, 1, 1), (1, 2, 1), (1, 2, 1)),
}  # fmt: skip


def _kernel(target: Target, dtype: DType, problem: Problem, cut: Direct, rank: int) -> Lowering:
    kernel = DirectKernel("tried", target, dtype, problem, cut, (0, 1, 2), 3, rank, None).build()
    buffers = tuple(Argument("buffer", number) for number in range(3))
    return Lowering((kernel,), (Launch("tried", buffers, units(problem, cut)),))


def _parameters(case: str, flip: bool) -> dict[str, Any]:
    _, _, stride, dilation, low = CASES[case]
    return {
        "stride": stride, "input_dilation": (1,) * len(stride), "kernel_dilation": dilation,
        "low": low, "flip": flip,
    }  # fmt: skip


def _arrays(case: str, dtype: DType) -> list[np.ndarray]:
    x_shape, w_shape, *_, low = CASES[case]
    rng = np.random.default_rng(0)
    x, w = random_array(rng, x_shape, dtype), random_array(rng, w_shape, dtype)
    parameters = {**_parameters(case, False), "high": low}
    return [x, w, np.ones(outputs_of(x_shape, w_shape, parameters), x.dtype)]


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("flip", [False, True])
def test_every_cut_gives_the_same_bits(target: Target, case: str, flip: bool) -> None:
    parameters = _parameters(case, flip)
    arrays = _arrays(case, dtypes.float32)
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate(arrays)]
    shapes = tuple(array.shape for array in arrays)
    run(target, cold_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), arrays)
    expected = arrays[2].tobytes()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    cut = direct(target, dtypes.float32, problem)
    assert cut is not None
    height = arrays[2].shape[-2] if len(parameters["stride"]) > 1 else 1
    for tried in (cut, replace(cut, rows=1, band=3), replace(cut, rows=3, band=3 * height)):
        arrays[2][...] = np.nan
        lowering = _kernel(target, dtypes.float32, problem, tried, len(parameters["stride"]))
        run(target, lowering, arrays, 2)
        assert arrays[2].tobytes() == expected, tried


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize("case", ["two vectors", "strides"])
@pytest.mark.parametrize(
    "dtype", [dtypes.float64, dtypes.float16, dtypes.bfloat16, dtypes.int32, dtypes.uint8]
)
def test_other_dtypes(target: Target, case: str, dtype: DType) -> None:
    parameters = _parameters(case, False)
    arrays = _arrays(case, dtype)
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate(arrays)]
    shapes = tuple(array.shape for array in arrays)
    run(target, cold_convolve(target, dtype, shapes, *views, 3, **parameters), arrays)
    expected = arrays[2].tobytes()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    cut = direct(target, dtype, problem)
    assert cut is not None
    arrays[2][...] = 1
    run(target, _kernel(target, dtype, problem, cut, 2), arrays, 3)
    assert arrays[2].tobytes() == expected


def test_infinite_weights_meet_padding_as_zeros() -> None:
    target = targets.host()
    parameters = _parameters("two vectors", False)
    x, w, y = arrays = _arrays("two vectors", dtypes.float32)
    w[0, 0, 0, 0] = np.inf
    w[1, 0, 0, 1, 2] = np.nan
    w[2] = -np.finfo(w.dtype).smallest_subnormal  # sums vanish
    x[2] = abs(x[2])
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate(arrays)]
    shapes = (x.shape, w.shape, y.shape)
    run(target, cold_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), arrays)
    expected = y.copy()
    assert np.isnan(expected[0]).any()
    assert not expected[2].any()
    run(target, hot_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), arrays)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y[2]), np.signbit(expected[2]))


@pytest.mark.parametrize("axis", ["images", "results in another order", "positions spread"])
def test_views(axis: str) -> None:
    """Operands and results that do not lie row after row."""
    target = targets.host()
    rng = np.random.default_rng(0)
    parameters = _parameters("two vectors", False)
    base = rng.standard_normal((2, 3, 1, 11, 28)).astype("f")
    x, w = base.transpose(1, 0, 2, 3, 4), rng.standard_normal((3, 2, 1, 3, 3)).astype("f")
    spread = np.zeros((2, 3, 2, 11, 2 * 28 if axis == "positions spread" else 28), "f")
    y = spread.transpose(1, 0, 2, 3, 4)[..., :: spread.shape[-1] // 28]
    if axis == "images":
        y = spread.reshape(3, 2, 2, 11, 28)
    strides = [tuple(step // 4 for step in array.strides) for array in (x, w, y)]
    views = [View(slot, step) for slot, step in enumerate(strides)]
    shapes = (x.shape, w.shape, y.shape)
    buffers = [base, w, spread]
    run(target, cold_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), buffers)
    expected = spread.tobytes()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    cut = direct(target, dtypes.float32, problem)
    assert cut is not None
    spread[...] = 0
    run(target, _kernel(target, dtypes.float32, problem, cut, 2), buffers, 2)
    assert spread.tobytes() == expected


@pytest.mark.parametrize("name", ["x86", "neon"])
def test_other_machines(name: str) -> None:
    """Their kernels are assembled."""
    target = targets.named(name)
    parameters = _parameters("two vectors", False)
    arrays = _arrays("two vectors", dtypes.float32)
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate(arrays)]
    (problem,) = convolve_problems(*(array.shape for array in arrays), *views, **parameters)
    cut = direct(target, dtypes.float32, problem)
    assert cut is not None
    (kernel,) = _kernel(target, dtypes.float32, problem, cut, 2).kernels
    assert library.object_code(kernel.text, target)


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [((1, 2, 8, 9, 28), (1, 2, 8, 3, 3)), ((1, 2, 1, 9, 28), (1, 16, 1, 5, 5)),
     ((1, 2, 1, 9, 3), (1, 1, 1, 3, 3))],
)  # fmt: skip
def test_other_kernels_serve_long_sums_many_channels_and_narrow_rows(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...]
) -> None:
    parameters = _parameters("two vectors", False)
    y_shape = outputs_of(x_shape, w_shape, {**parameters, "high": (1, 1)})
    views = [View.contiguous(n, shape) for n, shape in enumerate((x_shape, w_shape, y_shape))]
    (problem,) = convolve_problems(x_shape, w_shape, y_shape, *views, **parameters)
    assert direct(targets.named("avx512"), dtypes.float32, problem) is None

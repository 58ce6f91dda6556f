"""No schedule changes a bit: kernels by many schedules of one contraction, on every feature set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen import contraction_cost, target as targets
from avalon.codegen.contraction import Lowering, View, cold_contract, cold_convolve
from avalon.codegen.contraction_hot import HotKernel, Schedule, Slots, units
from avalon.codegen.contraction_problem import Problem, contract_problem, convolve_problems
from avalon.codegen.contraction_tile import lanes_of
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Argument, Launch
from avalon.size import Sizes
from tests.codegen.contraction_harness import outputs_of, random_array, run

TARGETS = [targets.named(name) for name in ("avx512", "avx2")]
RUNNING = [t for t in TARGETS if targets.host().is_x86 and t.lanes <= targets.host().lanes]
TRIED = 8  # schedules of a contraction


def _sampled(target: Target, problem: Problem, spatial: bool) -> list[Schedule]:
    """Some of the candidates, drawn evenly."""
    found = list(contraction_cost.candidates(target, dtypes.float32, problem, spatial))
    step = max(1, len(found) // TRIED)
    return [schedule for _, schedule in found[::step]]


def _computed(
    target: Target, problem: Problem, schedule: Schedule, rank: int, arrays: list[np.ndarray]
) -> bytes:
    kernel = HotKernel(
        "tried", target, dtypes.float32, problem, schedule, Slots(0, 1, 2), rank, None, False
    ).build()
    arguments = tuple(Argument("buffer", number) for number in range(3))
    launch = Launch("tried", arguments, units(problem, schedule))
    arrays[2][...] = np.nan
    run(target, Lowering((kernel,), (launch,)), arrays, 2)
    return arrays[2].tobytes()


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize("shape", [(1, 45, 800, 70), (2, 6, 30, 100), (1, 150, 50, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_schedules_of_matrix_products(
    target: Target, shape: tuple[int, int, int, int], turned: bool
) -> None:
    batch, m, k, n = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((batch, m, k)).astype("f")
    b = rng.standard_normal((batch, k, n)).astype("f")
    y = np.empty((batch, m, n), "f")
    b_view = View(1, (k * n, 1, k)) if turned else View.contiguous(1, b.shape)
    views = (View.contiguous(0, a.shape), b_view, View.contiguous(2, y.shape))
    arrays = [a, b, y]
    run(target, cold_contract(target, dtypes.float32, shape, *views, 3), arrays)
    expected = y.tobytes()
    problem = contract_problem(shape, *views)
    for schedule in _sampled(target, problem, False):
        assert _computed(target, problem, schedule, 0, arrays) == expected, schedule
        if schedule.pack_lanes:
            other = replace(schedule, resident=not schedule.resident)
            assert _computed(target, problem, other, 0, arrays) == expected, other


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize("summed", [50, 800])
@pytest.mark.parametrize("columns", [5, 37, 70])
def test_a_few_rows_with_turned_lanes_in_units_of_any_size(
    target: Target, summed: int, columns: int
) -> None:
    """The last tile starts early, in the unit before it if its own is too small."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((1, 3, summed)).astype("f")
    b = rng.standard_normal((1, summed, columns)).astype("f")
    y = np.empty((1, 3, columns), "f")
    views = (
        View.contiguous(0, a.shape), View(1, (0, 1, summed)), View.contiguous(2, y.shape)
    )  # fmt: skip
    arrays = [a, b, y]
    run(target, cold_contract(target, dtypes.float32, (1, 3, summed, columns), *views, 3), arrays)
    expected = y.tobytes()
    problem = contract_problem((1, 3, summed, columns), *views)
    for vectors, tiles in ((1, 1), (2, 1), (2, 2), (1, 3)):
        schedule = Schedule(
            False, 3, vectors, tiles * vectors * target.lanes, 3, pack_lanes=False, turn_lanes=True
        )
        assert _computed(target, problem, schedule, 0, arrays) == expected, schedule


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "low"),
    [
        ((1, 3, 5, 11, 13), (1, 20, 5, 3, 3), (1, 1), (1, 1)),
        ((1, 2, 70, 9, 9), (1, 7, 70, 3, 2), (2, 3), (0, 1)),
        ((2, 5, 2, 17), (2, 33, 2, 4), (1,), (3,)),
        ((1, 4, 6, 15, 15), (1, 18, 6, 13, 13), (1, 1), (0, 0)),
    ],
)
def test_schedules_of_convolutions(
    target: Target, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: tuple[int, ...],
    low: tuple[int, ...],
) -> None:  # fmt: skip
    one = (1,) * len(stride)
    parameters: dict[str, Any] = {
        "stride": stride, "input_dilation": one, "kernel_dilation": one, "low": low, "flip": False
    }  # fmt: skip
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("f") for shape in (x_shape, w_shape))
    y = np.empty(outputs_of(x_shape, w_shape, {**parameters, "high": low}), "f")
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate((x, w, y))]
    shapes = (x_shape, w_shape, y.shape)
    arrays = [x, w, y]
    run(target, cold_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), arrays)
    expected = y.tobytes()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    assert problem.blocks.spans == 1
    for schedule in _sampled(target, problem, True):
        assert _computed(target, problem, schedule, len(stride), arrays) == expected, schedule


@pytest.mark.parametrize("target", RUNNING, ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.int32])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "dilation", "low"),
    [
        ((1, 5, 9, 4, 4), (1, 20, 9, 3, 3), (1, 1), (1, 1), (1, 1)),
        ((2, 17, 3, 5, 6), (2, 19, 3, 4, 5), (2, 1), (1, 1), (1, 2)),
        ((1, 3, 50, 7), (1, 33, 50, 3), (1,), (2,), (2,)),
        ((1, 2, 4, 3, 3, 3), (1, 6, 4, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("special", [False, True])
def test_taps_outside_may_be_left_out(
    target: Target, dtype: DType, x_shape: tuple[int, ...], w_shape: tuple[int, ...],
    stride: tuple[int, ...], dilation: tuple[int, ...], low: tuple[int, ...], special: bool,
) -> None:  # fmt: skip
    """Infinite and NaN weights meet padding as zeros, and no sum ends as -0, whatever is left
    out.
    """
    parameters: dict[str, Any] = {
        "stride": stride, "input_dilation": (1,) * len(stride), "kernel_dilation": dilation,
        "low": low, "flip": False,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    x, w = (random_array(rng, shape, dtype) for shape in (x_shape, w_shape))
    y = np.empty(outputs_of(x_shape, w_shape, {**parameters, "high": low}), dtype.storage)
    if special and dtype.is_floating_point:
        w.reshape(-1)[::97] = np.inf
        w.reshape(-1)[50::301] = np.nan
        # All products of the last channel out are tiny and negative, so that its sums vanish.
        w[:, -1] = -np.finfo(w.dtype).smallest_subnormal
        x = abs(x)
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate((x, w, y))]
    shapes = (x_shape, w_shape, y.shape)
    run(target, cold_convolve(target, dtype, shapes, *views, 3, **parameters), [x, w, y])
    expected = y.copy()
    if special and dtype.is_floating_point:
        assert np.isnan(expected).any()
        assert (expected[:, :, -1] == 0).any()
        assert not np.signbit(expected[expected == 0]).any()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    assert problem.blocks.spans == 1
    skipping = [
        schedule
        for _, schedule in contraction_cost.candidates(target, dtype, problem, True)
        if schedule.skips
    ]
    images = [schedule for schedule in skipping if schedule.tile and schedule.tile[0] > 1]
    lines = [schedule for schedule in skipping if schedule.tile and schedule.tile[0] == 1]
    assert images
    # Of one line nothing can be left out, and one vector does not pay for the list.
    assert bool(lines) is (len(stride) > 1 and w_shape[1] > lanes_of(target, dtype))
    tried = images[:: max(1, len(images) // 3)] + lines[:: max(1, len(lines) // 3)]
    tried += [replace(schedule, resident=not schedule.resident) for schedule in tried[::3]]
    for schedule in tried:
        y[...] = 1
        kernel = HotKernel(
            "tried", target, dtype, problem, schedule, Slots(0, 1, 2), len(stride), None, False
        ).build()
        launch = Launch(
            "tried", tuple(Argument("buffer", n) for n in range(3)), units(problem, schedule)
        )
        run(target, Lowering((kernel,), (launch,)), [x, w, y], 2)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(np.signbit(y[y == 0]), np.signbit(expected[expected == 0]))


def test_the_choice_is_the_same_again() -> None:
    views = (View(0, (0, 64, 1)), View(1, (0, 64, 1)), View(2, (0, 64, 1)))
    problem = contract_problem((1, 64, 64, 64), *views)
    chosen = {
        contraction_cost.choose(TARGETS[0], dtypes.float32, problem, False) for _ in range(3)
    }
    assert len(chosen) == 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_product_that_began_with_few_rows_is_cut_for_many(target: Target) -> None:
    rows = Sizes().symbol(2, 4096)
    views = (View(0, (0, 128, 1)), View(1, (0, 1, 128)), View(2, (0, 512, 1)))
    problem = contract_problem((1, rows, 128, 512), *views)  # type: ignore[arg-type]
    schedule = contraction_cost.choose(target, dtypes.float32, problem, False)
    assert 2 < schedule.rows <= 8
    assert schedule.x_unit >= 16


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("filters", [3, 20])
def test_runs_of_a_weight_gradient_are_stored_whole(channels: int, filters: int) -> None:
    """The result lies as weights do: filters outermost, so channels and taps are one run."""
    target = targets.host()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, channels, 6, 7, 8)).astype("f")  # channels as images
    dy = rng.standard_normal((1, filters, 6, 7, 8)).astype("f")
    dw = np.empty((1, filters, channels, 3, 3), "f")
    y_shape = (1, channels, filters, 3, 3)
    y_view = View(2, (0, 9, 9 * channels, 3, 1))
    views = [View.contiguous(0, x.shape), View.contiguous(1, dy.shape), y_view]
    parameters: dict[str, Any] = {
        "stride": (1, 1), "input_dilation": (1, 1), "kernel_dilation": (1, 1), "low": (1, 1),
        "flip": False,
    }  # fmt: skip
    shapes = (x.shape, dy.shape, y_shape)
    arrays = [x, dy, dw]
    run(target, cold_convolve(target, dtypes.float32, shapes, *views, 3, **parameters), arrays)
    expected = dw.tobytes()
    (problem,) = convolve_problems(*shapes, *views, **parameters)
    assert problem.blocks.spans == 1
    found = _sampled(target, problem, True)
    assert any(s.box and s.box[0] > 1 and s.box[2:] == (3, 3) for s in found)
    for schedule in found:
        assert _computed(target, problem, schedule, 2, arrays) == expected, schedule

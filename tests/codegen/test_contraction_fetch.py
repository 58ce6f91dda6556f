"""What is asked for early is what is read, and no bit depends on it."""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.codegen import contraction_cost, contraction_hot, target as targets
from avalon.codegen.contraction import Lowering, View, cold_convolve
from avalon.codegen.contraction_fetch import is_worth_it, stretches
from avalon.codegen.contraction_hot import HotKernel, Slots, units
from avalon.codegen.contraction_problem import convolve_problems
from avalon.runtime.plan import Argument, Launch
from tests.codegen.contraction_harness import run


@pytest.mark.parametrize("seed", range(20))
def test_stretches_hold_all_that_is_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = [(int(rng.integers(1, 5)), int(rng.integers(-40, 90))) for _ in range(4)]
    first, outer, length = stretches(axes, 16)
    read = {
        sum(i * stride for i, (_, stride) in zip(index, axes, strict=True))
        for index in product(*(range(extent) for extent, _ in axes))
    }
    starts = [
        first + sum(i * stride for i, (_, stride) in zip(index, outer, strict=True))
        for index in product(*(range(extent) for extent, _ in outer))
    ]
    held = {start + i for start in starts for i in range(length)}
    assert read <= held


def test_scattered_elements_are_not_worth_a_line_each() -> None:
    assert is_worth_it([(32, 4096), (6, 34), (34, 1)], dtypes.float32)
    assert not is_worth_it([(32, 4096), (6, 34)], dtypes.float32)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels", [20, 50])
def test_asking_early_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, images: int, channels: int
) -> None:
    """Also where the last unit and the last block are followed by nothing."""
    monkeypatch.setattr(contraction_hot, "_FAR", 0)
    target = targets.host()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, images, channels, 10, 19)).astype("f")
    w = rng.standard_normal((1, 21, channels, 3, 3)).astype("f")
    y = np.empty((1, images, 21, 10, 19), "f")
    views = [View.contiguous(slot, array.shape) for slot, array in enumerate((x, w, y))]
    parameters = {
        "stride": (1, 1), "input_dilation": (1, 1), "kernel_dilation": (1, 1), "low": (1, 1)
    }  # fmt: skip
    shapes = (x.shape, w.shape, y.shape)
    cold = cold_convolve(
        target, dtypes.float32, shapes, *views, 3, flip=False, **parameters
    )  # type: ignore[arg-type]
    run(target, cold, [x, w, y])
    expected = y.tobytes()
    (problem,) = convolve_problems(*shapes, *views, flip=False, **parameters)  # type: ignore[arg-type]
    found = list(contraction_cost.candidates(target, dtypes.float32, problem, True))
    asked = 0
    for _, schedule in found[:: ceil(len(found) / 10)]:
        kernel = HotKernel(
            "tried", target, dtypes.float32, problem, schedule, Slots(0, 1, 2), 2, None, False
        ).build()
        asked += "prefetch" in kernel.text
        arguments = tuple(Argument("buffer", number) for number in range(3))
        launch = Launch("tried", arguments, units(problem, schedule))
        y[...] = np.nan
        run(target, Lowering((kernel,), (launch,)), [x, w, y], 2)
        assert y.tobytes() == expected, schedule
    assert asked

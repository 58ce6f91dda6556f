"""Index forms against what they stand for: the same numbers computed point by point."""

import itertools

import numpy as np
import pytest

from avalon.schedule.index import (
    Affine,
    Axis,
    Dynamic,
    Quotient,
    SplitAxis,
    address,
    divide,
    rejoin,
    reshape,
    variable,
)  # fmt: skip


def evaluate(form, places):
    """The value of a form with axes at `places`."""
    total = form.offset
    for of, coefficient in form.terms.items():
        if isinstance(of, Axis):
            value = places[of]
        else:
            assert isinstance(of, Quotient)
            source = evaluate(of.source, places)
            assert source >= 0
            value = source % of.divisor if of.remainder else source // of.divisor
        assert of.low <= value <= of.high
        total += coefficient * value
    return total


@pytest.mark.parametrize("factors", [(1, 4), (3, 1), (-2, 5), (6, -3)])
@pytest.mark.parametrize("offset", [-7, 0, 5])
@pytest.mark.parametrize("divisor", [2, 3, 5])
def test_division_is_floor_and_remainder(factors, offset, divisor):
    axes = Axis(0, 4), Axis(1, 6)
    form = Affine(dict(zip(axes, factors, strict=True)), offset)
    quotient, remainder = divide(form, divisor, split=False)
    for point in itertools.product(range(4), range(6)):
        places = dict(zip(axes, point, strict=True))
        value = evaluate(form, places)
        assert form.low <= value <= form.high
        assert evaluate(quotient, places) == value // divisor
        assert evaluate(remainder, places) == value % divisor


def test_linear_division_needs_no_quotient():
    rows, columns = Axis(0, 5), Axis(1, 7)
    quotient, remainder = divide(Affine({rows: 7, columns: 1}, 0), 7)
    assert quotient == variable(rows)
    assert remainder == variable(columns)


def test_division_of_one_axis_asks_to_split_it():
    with pytest.raises(SplitAxis) as wanted:
        divide(variable(Axis(0, 12)), 4)
    assert wanted.value.inner == 4


def test_a_reshape_there_and_back_is_nothing():
    axis = Axis(0, 24)
    there = reshape((variable(axis),), (24,), (2, 3, 4), split=False)
    assert address(there, (2, 3, 4)) == variable(axis)
    assert rejoin(Affine({axis: 2}, 1)) == Affine({axis: 2}, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((6, 4), (24,)),
        ((24,), (4, 6)),
        ((2, 3, 4), (4, 3, 2)),
        ((5, 1, 4), (5, 2, 2)),
        ((), (1, 1)),
    ],
)
def test_reshape_keeps_the_row_major_number(old, new):
    axes = [Axis(number, extent) for number, extent in enumerate(old)]
    coordinates = reshape([variable(axis) for axis in axes], old, new, split=False)
    for point in np.ndindex(*old):
        places = dict(zip(axes, point, strict=True))
        found = tuple(evaluate(c, places) for c in coordinates)
        assert np.ravel_multi_index(found, new) == np.ravel_multi_index(point, old) if new else True


def test_data_stays_inside_its_bounds():
    class Index:
        bits = 0

    chosen = Dynamic(Index(), 9)
    assert (chosen.low, chosen.high) == (0, 9)
    assert variable(Dynamic(Index(), 0)) == Affine({}, 0)

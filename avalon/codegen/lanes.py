"""How an index form changes from lane to lane of a vector.

Comes in: forms, and the axis that runs across the lanes. Goes out: the step between lanes, and the
variables that follow no step. Guaranteed: divisions that all lanes of an aligned strip do alike are
seen through, so that what lies behind a flattened axis is read as a neighbour or once for all
lanes, not element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avalon.codegen.emit import Value
from avalon.schedule.index import Affine, Axis, Quotient, Variable

Part = tuple[Any, Any]


@dataclass
class Lanes:
    """The axis that runs across the lanes of vectors; `mask` switches lanes off. `aligned`: strips
    begin at multiples of `count`.
    """

    bits: int
    axis: Axis
    count: int
    mask: Value | None
    aligned: bool


def lane_parts(form: Affine, lanes: Lanes | None) -> tuple[Any, list[Part]]:
    """The step of a form between lanes, and the variables (with their factors) that differ from
    lane to lane by no step.

    >>> from avalon.schedule.index import constant, divide, variable
    >>> axis = Axis(0, 4096)
    >>> column = divide(variable(axis), 1024, split=False)[1]
    >>> lane_parts(column, Lanes(axis.bits, axis, 16, None, aligned=True))
    (1, [])
    """
    if lanes is None or not form.bits & lanes.bits:
        return 0, []
    step, parts = form.coefficient(lanes.axis), []
    for variable, coefficient in form.terms.items():
        if isinstance(variable, Axis) or not variable.bits & lanes.bits:
            continue
        own = _step(variable, lanes)
        if own is None or (own and not (isinstance(step, int) and isinstance(coefficient, int))):
            parts.append((variable, coefficient))
        elif own:
            step += coefficient
    return step, parts


def _step(variable: Variable, lanes: Lanes) -> int | None:
    """The step of a quotient or remainder: 0, 1, or None if it follows none."""
    if not isinstance(variable, Quotient):
        return None
    step, parts = lane_parts(variable.source, lanes)
    if parts or not isinstance(step, int):
        return None
    if step == 0:
        return 0
    divisor = variable.divisor
    if step != 1 or not isinstance(divisor, int) or divisor % lanes.count:
        return None
    if not _begins_aligned(variable.source, lanes):
        return None
    return 1 if variable.remainder else 0


def _begins_aligned(form: Affine, lanes: Lanes) -> bool:
    """Whether a form whose step is 1 is a multiple of the number of lanes in the first of them."""
    if not lanes.aligned or not _is_multiple(form.offset, lanes.count):
        return False
    for variable, coefficient in form.terms.items():
        walks = variable is lanes.axis or (
            isinstance(variable, Quotient)
            and variable.bits & lanes.bits
            and _step(variable, lanes) == 1
        )
        if not walks and not _is_multiple(coefficient, lanes.count):
            return False
    return True


def _is_multiple(number: Any, count: int) -> bool:
    return isinstance(number, int) and number % count == 0

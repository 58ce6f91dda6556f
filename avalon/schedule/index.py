"""Index arithmetic: where an element lies, as a linear form over loop axes.

Comes in: loop axes and the movements (slice, transpose, reshape, pad, ...) between a consumer and
what it reads. Goes out: `Affine` forms, the coordinates and addresses of every load and store.
Guaranteed: forms are values (equal when they say the same), ranges are exact bounds, and a division
that is not linear becomes a `Quotient` variable, so that every movement can be followed through.

A variable of a form is an `Axis` (a loop), a `Quotient` (floor or remainder of another form), or a
`Dynamic` (a number that is data: a slice start, an index).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from avalon.shape import contiguous_strides
from avalon.size import is_open


class Slot:
    """A number that a shape-generic kernel gets at run time, as its argument `position`."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def __repr__(self) -> str:
        return f"#{self.position}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and other.position == self.position

    def __hash__(self) -> int:
        return hash(("slot", self.position))


class Axis:
    """A loop variable that runs over [0, extent). `number` is unique in its kernel."""

    __slots__ = ("bits", "extent", "number")

    def __init__(self, number: int, extent: Any) -> None:
        self.number = number
        self.extent = extent
        self.bits = 1 << number

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return self.extent - 1

    def __repr__(self) -> str:
        return f"i{self.number}"


class Quotient:
    """floor(source / divisor), or the remainder of that division."""

    __slots__ = ("_hash", "bits", "divisor", "high", "low", "remainder", "source")
    bits: int

    def __init__(self, source: Affine, divisor: Any, remainder: bool, low: int, high: int) -> None:
        self.source = source
        self.divisor = divisor
        self.remainder = remainder
        self.low = low
        self.high = high
        self.bits = source.bits
        self._hash = hash((source, divisor, remainder))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Quotient)
            and self._hash == other._hash
            and self.remainder == other.remainder
            and self.divisor == other.divisor
            and self.source == other.source
        )

    def __repr__(self) -> str:
        return f"({self.source} {'mod' if self.remainder else 'div'} {self.divisor})"


class Dynamic:
    """An integer expression, clamped to [0, limit]: data never leads outside a buffer."""

    __slots__ = ("bits", "expression", "limit")

    def __init__(self, expression: Any, limit: Any) -> None:
        self.expression = expression
        self.limit = limit
        self.bits = expression.bits

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return max(self.limit, 0)

    def __hash__(self) -> int:
        return hash((id(self.expression), self.limit))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Dynamic)
            and self.expression is other.expression
            and self.limit == other.limit
        )

    def __repr__(self) -> str:
        return f"clamp({self.expression}, 0, {self.limit})"


Variable = Axis | Quotient | Dynamic


class SplitAxis(Exception):
    """Asks for a loop axis to be cut in two, of which the inner one has `inner` steps: then the
    coordinate that was wanted is linear. With `phases` each step of the inner one is to be written
    out, for what is computed differs from one to the next.
    """

    def __init__(self, axis: Axis, inner: int, phases: bool) -> None:
        super().__init__(f"split {axis} by {inner}")
        self.axis = axis
        self.inner = inner
        self.phases = phases


class Affine:
    """offset + sum of coefficient * variable."""

    __slots__ = ("_hash", "bits", "offset", "terms")
    bits: int

    def __init__(self, terms: dict[Variable, Any], offset: Any) -> None:
        self.terms = terms
        self.offset = offset
        bits = 0
        for variable in terms:
            bits |= variable.bits
        self.bits = bits
        self._hash = 0

    def __hash__(self) -> int:
        if not self._hash:
            self._hash = hash((frozenset(self.terms.items()), self.offset))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Affine) and self.offset == other.offset and self.terms == other.terms
        )

    def __repr__(self) -> str:
        parts = [f"{c}*{v}" if c != 1 else f"{v}" for v, c in self.terms.items()]
        if self.offset != 0 or not parts:
            parts.append(str(self.offset))
        return " + ".join(parts)

    @property
    def low(self) -> int:
        return self.offset + sum(c * (v.low if c > 0 else v.high) for v, c in self.terms.items())

    @property
    def high(self) -> int:
        return self.offset + sum(c * (v.high if c > 0 else v.low) for v, c in self.terms.items())

    def plus(self, offset: int) -> Affine:
        return Affine(self.terms, self.offset + offset) if offset else self

    def times(self, factor: int) -> Affine:
        if factor == 1:
            return self
        if factor == 0:
            return ZERO
        return Affine({v: c * factor for v, c in self.terms.items()}, self.offset * factor)

    def add(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for variable, coefficient in other.terms.items():
            total = terms.get(variable, 0) + coefficient
            if total:
                terms[variable] = total
            else:
                del terms[variable]
        return Affine(terms, self.offset + other.offset)

    def coefficient(self, axis: Axis) -> Any:
        """The factor of `axis`; 0 where the form does not mention it directly."""
        return self.terms.get(axis, 0)


ZERO = Affine({}, 0)


def constant(value: int) -> Affine:
    return Affine({}, value) if value else ZERO


def variable(of: Variable) -> Affine:
    """The form that is just a variable (0 for an axis of one step)."""
    if of.low == of.high:
        return constant(of.low)
    return Affine({of: 1}, 0)


def combine(coordinates: Iterable[Affine], factors: Iterable[int]) -> Affine:
    """The sum of factor * coordinate: an address from coordinates and strides."""
    terms: dict[Variable, int] = {}
    offset = 0
    for coordinate, factor in zip(coordinates, factors, strict=True):
        if not factor:
            continue
        offset += coordinate.offset * factor
        for of, coefficient in coordinate.terms.items():
            total = terms.get(of, 0) + coefficient * factor
            if total:
                terms[of] = total
            else:
                terms.pop(of, None)
    return rejoin(Affine(terms, offset))


def rejoin(form: Affine) -> Affine:
    """Put quotients and remainders of one division together again: d * (s div d) + s mod d is s."""
    while True:
        for of, coefficient in form.terms.items():
            if isinstance(of, Quotient) and of.remainder:
                whole = Quotient(of.source, of.divisor, False, 0, 0)
                if form.terms.get(whole) == coefficient * of.divisor:
                    kept = {v: c for v, c in form.terms.items() if v not in (of, whole)}
                    form = Affine(kept, form.offset).add(of.source.times(coefficient))
                    break
        else:
            return form


def divide(
    form: Affine, divisor: int, split: bool = True, phases: bool = False
) -> tuple[Affine, Affine]:
    """Quotient and remainder of a form by a positive number, linear where that is possible.

    Raises:
        SplitAxis: if cutting one loop axis in two would make them linear, and `split` allows it.
    """
    if divisor == 1:
        return form, ZERO
    whole: dict[Variable, int] = {}
    rest: dict[Variable, int] = {}
    for of, coefficient in form.terms.items():
        if coefficient % divisor == 0:
            whole[of] = coefficient // divisor
        else:
            rest[of] = coefficient
    remainder = Affine(rest, form.offset)
    low, high = remainder.low, remainder.high
    if low // divisor == high // divisor:
        steps = low // divisor
        return Affine(whole, steps), remainder.plus(-steps * divisor)
    if split:
        for of, coefficient in rest.items():
            if is_open(divisor) or is_open(coefficient) or not isinstance(of, Axis):
                continue
            if not is_open(of.extent) and coefficient > 0 and divisor % coefficient == 0:
                inner = divisor // coefficient
                if 1 < inner < of.extent and of.extent % inner == 0:
                    raise SplitAxis(of, inner, phases)
    # Machines divide toward zero: shifted by whole divisors, what is divided is never negative.
    shift = max(0, -(low // divisor))
    shifted = remainder.plus(shift * divisor)
    quotient = Quotient(shifted, divisor, False, 0, high // divisor + shift)
    modulus = Quotient(shifted, divisor, True, 0, divisor - 1)
    return Affine({**whole, quotient: 1}, -shift), Affine({modulus: 1}, 0)


def address(coordinates: Sequence[Affine], shape: Sequence[int]) -> Affine:
    """The element's number in a row-major buffer of `shape`."""
    return combine(coordinates, contiguous_strides(shape))


def reshape(
    coordinates: Sequence[Affine], old: Sequence[int], new: Sequence[int], split: bool = True
) -> tuple[Affine, ...]:
    """Coordinates in `new` of the element that has `coordinates` in `old`.

    >>> i = Axis(0, 12)
    >>> reshape((variable(i), ZERO), (12, 1), (12,))
    (i0,)
    """
    # Axes that both shapes share at the front keep their coordinate: no division needed.
    shared = 0
    while shared < min(len(old), len(new)) and old[shared] == new[shared]:
        shared += 1
    linear = address(coordinates[shared:], old[shared:])
    result: list[Affine] = []
    outermost = next((k for k in range(shared, len(new)) if new[k] != 1), len(new))
    for axis in range(len(new) - 1, shared - 1, -1):
        extent = new[axis]
        if extent == 1:
            result.append(ZERO)
        elif axis == outermost:
            result.append(linear)
        else:
            linear, coordinate = divide(linear, extent, split)
            result.append(coordinate)
    return tuple(coordinates[:shared]) + tuple(reversed(result))

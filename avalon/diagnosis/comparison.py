"""How far apart two arrays are, in units in the last place, and how far they may be.

Comes in: two arrays of one dtype; a call and its operands. Goes out: a `Difference`; bounds on what
rounding explains. Guaranteed: a NaN equals every NaN, a zero only the zero of its own sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import Any

import numpy as np

from avalon.dtype import DType, bfloat16
from avalon.graph.interpret import evaluate
from avalon.graph.node import Call
from avalon.graph.primitive import Contraction, Indexing, Reduction
from avalon.ops import result

Array = np.ndarray[Any, Any]

_ULPS = 64  # what two good implementations of a function may be apart
_WORDS: dict[int, Any] = {2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class Difference:
    """Where two arrays part: the first index, both values there, how many elements differ and by
    how many units in the last place at most.
    """

    index: tuple[int, ...]
    expected: Any
    found: Any
    count: int
    size: int
    ulps: float

    def __str__(self) -> str:
        far = f", up to {self.ulps:,.0f} ulp" if self.ulps else ""
        return (
            f"{self.found!r} instead of {self.expected!r} at {list(self.index)}; "
            f"{self.count} of {self.size} elements differ{far}"
        )


def bits_differ(expected: Array, found: Array, dtype: DType) -> Difference | None:
    """The difference of two arrays whose every bit should be equal."""
    if expected.dtype.kind in "fc":
        wrong = (expected != found) | (np.signbit(expected.real) != np.signbit(found.real))
        wrong &= (expected == expected) | (found == found)
    else:
        wrong = expected != found
    return _difference(expected, found, wrong, dtype)


def values_differ(call: Call, operands: Sequence[Array], found: Array) -> Difference | None:
    """The difference of a call's value from its meaning, if rounding does not explain it."""
    expected = evaluate(call.primitive, operands, call.parameters, call.dtype)
    if call.dtype.kind not in ("float", "complex"):
        return _difference(expected, found, expected != found, call.dtype)
    if call.primitive is result:  # of a loop, in whose rounds roundings add up
        return sums_differ(expected, found, call.dtype)
    with np.errstate(all="ignore"):
        allowed = _epsilon(call.dtype) * _ULPS * _size_of_terms(call, operands, expected)
    return _farther(expected, found, allowed, call.dtype)


def sums_differ(expected: Array, found: Array, dtype: DType) -> Difference | None:
    """The difference of two arrays that other orders of many sums do not explain."""
    if dtype.kind not in ("float", "complex"):
        return _difference(expected, found, expected != found, dtype)
    with np.errstate(all="ignore"):
        finite = np.abs(expected[np.isfinite(expected)])
    allowed = np.asarray(sqrt(_epsilon(dtype)) * finite.max(initial=0))
    return _farther(expected, found, allowed, dtype)


def _epsilon(dtype: DType) -> float:
    return 2.0**-7 if dtype is bfloat16 else float(np.finfo(dtype.reference).eps)


def _farther(expected: Array, found: Array, allowed: Array, dtype: DType) -> Difference | None:
    """The difference where values are farther apart than is allowed."""
    with np.errstate(all="ignore"):
        far = np.abs(expected.astype(found.dtype) - found)
        near = (expected == found) | (far <= allowed) | (_nan(expected) & _nan(found))
    return _difference(expected, found, ~near, dtype)


def _size_of_terms(call: Call, operands: Sequence[Array], expected: Array) -> Array:
    """What rounding errors are in proportion to: the result, or the sum of its terms' sizes."""
    tiny = float(np.finfo(expected.dtype).tiny)
    if not issubclass(call.primitive.kind, Contraction | Reduction | Indexing):
        return np.abs(expected) + tiny
    if call.primitive.name in ("reduce_max", "reduce_min", "reduce_product"):
        return np.abs(expected) + tiny
    sizes = [np.abs(x) if x.dtype.kind in "fc" else x for x in operands]
    terms = evaluate(call.primitive, sizes, call.parameters, call.dtype)
    count = max(max((x.size for x in operands), default=1) / max(expected.size, 1), 2)
    return np.asarray(np.abs(terms) * log2(count + 1) + tiny)


def _difference(expected: Array, found: Array, wrong: Array, dtype: DType) -> Difference | None:
    wrong = np.asarray(wrong)
    count = int(np.count_nonzero(wrong))
    if not count:
        return None
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    return Difference(
        index, expected[index].item(), found[index].item(), count, expected.size,
        _ulps(expected[wrong], found[wrong], dtype),
    )  # fmt: skip


def _ulps(expected: Array, found: Array, dtype: DType) -> float:
    """The largest distance in units in the last place; 0 where that has no meaning."""
    if expected.dtype.kind != "f" or not dtype.is_floating_point:
        return 0.0
    finite = np.isfinite(expected) & np.isfinite(found)
    if not finite.any():
        return 0.0
    word = _WORDS[expected.dtype.itemsize]
    step = 1 << 16 if dtype is bfloat16 else 1
    places = []
    for array in (expected[finite], found[finite]):
        bits = array.view(word).astype(np.float64)
        # negative numbers count downwards from zero
        places.append(np.where(bits < 0, float(np.iinfo(word).min) - bits, bits))
    return float(np.max(np.abs(places[0] - places[1])) / step)


def _nan(array: Array) -> Array:
    return array != array

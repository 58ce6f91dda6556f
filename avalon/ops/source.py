"""Sources: values out of nothing or out of a counter. (A constant is a kind of node, not a
primitive.)

`iota` has no operand; it is appended with `graph.call(iota, (), {...})` or `node.apply(iota, (),
{...})`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import DTypeError, ShapeError
from avalon.graph.primitive import Source, primitive
from avalon.ops import placement_samples as samples


@primitive(Source, samples=samples.counts)
def iota(shape, axis, dtype):
    """0, 1, 2, ... along `axis`, the same in every row of the others."""
    along = np.arange(shape[axis]).astype(dtype.reference)
    column = [1] * len(shape)
    column[axis] = shape[axis]
    return np.broadcast_to(along.reshape(column), shape)


@iota.shape
def _(shape, axis, dtype):
    if not 0 <= axis < len(shape):
        raise ShapeError(f"[iota] axis {axis} of shape {shape} must be in [0, {len(shape)})")
    if dtype.kind == "bool" or dtype.is_complex:
        raise DTypeError(f"[iota] cannot count in {dtype.name}; cast an integer iota")
    return shape, dtype


iota.no_gradient("it has no operands")
iota.lowering("iota")

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(key: np.uint64, counters: np.ndarray) -> np.ndarray:
    """Philox4x32-10 (Salmon and others, 2011): four uint32 words for each 64-bit counter."""
    a, b = counters & _WORD, counters >> _HALF
    c = d = np.zeros_like(counters)
    low, high = key & _WORD, key >> _HALF
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> _HALF) ^ b ^ low,
            second & _WORD,
            (first >> _HALF) ^ d ^ high,
            first & _WORD,
        )
        low, high = (low + _KEY_STEPS[0]) & _WORD, (high + _KEY_STEPS[1]) & _WORD
    return np.stack([a, b, c, d], -1).astype(np.uint32)


@primitive(Source, accepts="word", samples=samples.draws)
def random_bits(key, offset, shape):
    """Random uint32 words: element i (row-major) is word i % 4 of Philox4x32-10 at counter
    offset + i // 4. The counter's halves are the first two counter words, low half first; the key's
    halves the two key words. key and offset are uint64 scalars.
    """
    count = prod(shape)
    counters = offset + np.arange((count + 3) // 4, dtype=np.uint64)
    return philox(np.uint64(key), counters).reshape(-1)[:count].reshape(shape)


@random_bits.shape
def _(key, offset, shape):
    if key.shape or offset.shape:
        raise ShapeError(
            f"[random_bits] key and offset must be scalars; got shapes {key.shape}, {offset.shape}"
        )
    return shape, dtypes.uint32


random_bits.no_gradient("random bits depend on nothing")
random_bits.lowering("random_bits")

"""The order in which items are visited: a function of two numbers, the same on every machine.

Comes in: a number of items, a seed, and which of its orders is wanted (an epoch, or a generator's
offset). Goes out: a NumPy permutation. Guaranteed: no state is kept, so that a run can go on in the
middle of any epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from avalon.random import Generator, default_generator


def permutation(count: int, seed: int, position: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The random order of `count` items that belongs to a seed and a position.

    Counter-based bits are sorted, because NumPy promises to keep those, but not its `permutation`.

    >>> permutation(5, seed=1).tolist() == permutation(5, seed=1).tolist()
    True
    >>> sorted(permutation(5, seed=1, position=3).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = np.random.Philox(key=np.array([seed, position], np.uint64)).random_raw(count)
    order = np.argsort(bits)
    ordered = bits[order]
    if (ordered[1:] == ordered[:-1]).any():  # the faster sort may turn equal bits round
        return np.argsort(bits, kind="stable")
    return order


def draw_permutation(
    count: int, generator: Generator | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The next random order of `count` items from a generator; the default one if None is given."""
    generator = generator or default_generator
    order = permutation(count, generator.initial_seed(), generator.offset)
    generator.offset += 1
    return order

"""The order in which items are visited: a function of a seed, the same on every machine.

Comes in: a seed, a number of items, and which of its orders is wanted (an epoch). Goes out: a NumPy
permutation. Guaranteed: no state is kept, so a run can go on in the middle of any epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def permutation(count: int, seed: int, epoch: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The `epoch`-th random order of `count` items.

    Counter-based bits are sorted, because NumPy promises to keep those, but not its `permutation`.

    >>> permutation(5, seed=1).tolist() == permutation(5, seed=1).tolist()
    True
    >>> sorted(permutation(5, seed=1, epoch=3).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(count)
    return np.argsort(bits, kind="stable")

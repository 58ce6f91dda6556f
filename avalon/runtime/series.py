"""A series: what differs between calls of one program that run in one native call.

Comes in: by word of the call's values (`values`), what it holds in each call. Goes out: a `Series`,
whose table the driver reads. Guaranteed: the calls run one after the other, and none after one that
failed; `done` says how many did not. They may be run some at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avalon.runtime import driver_tables as tables


class Series:
    """The table of `count` calls. `words` says for each word that changes what it holds in each.

    Attributes:
        address: of the table; count: the number of calls.
    """

    def __init__(self, words: Mapping[int, NDArray[np.uint64]], count: int) -> None:
        width = len(words)
        self.count = count
        self._table: NDArray[Any] = np.empty(tables.SERIES_WORDS + width * (1 + count), np.uint64)
        self._table[: tables.SERIES_WORDS] = 0
        self._table[tables.SERIES_WIDTH] = width
        numbers, rows = np.split(self._table[tables.SERIES_WORDS :], [width])
        numbers[:] = list(words)
        for column, held in zip(rows.reshape(count, width).T, words.values(), strict=True):
            column[:] = held
        self.address = self._table.ctypes.data

    @property
    def stop(self) -> int:
        """The number of calls after which to return."""
        return int(self._table[tables.SERIES_STOP])

    @stop.setter
    def stop(self, count: int) -> None:
        self._table[tables.SERIES_STOP] = count

    @property
    def done(self) -> int:
        """How many calls were made without a failure."""
        return int(self._table[tables.SERIES_DONE])

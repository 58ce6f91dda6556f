"""What differs between several calls of a compiled step that run in one native call.

Comes in: where the arguments, the memory that changes place, and the random counters are at the
first call. Goes out: columns, which say for a word of the program's table what it holds in each of
the calls. Guaranteed: each call finds in its words what it would find if it came alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avalon.random import Generator
from avalon.replay.templates import Template, templates
from avalon.runtime.buffer import Buffer

Column = NDArray[np.uint64]

_WORD = (1 << 64) - 1


def apart(start: int, step: int, count: int) -> Column:
    """`start`, `start + step` and so on, modulo 2**64."""
    distances = np.arange(count, dtype=np.uint64) * np.uint64(step & _WORD)
    return distances + np.uint64(start & _WORD)


def in_turns(first: Buffer, second: Buffer, count: int) -> Column:
    """The address of `first` in the even calls, of `second` in the odd ones."""
    addresses = np.array([first.address, second.address], np.uint64)
    return np.resize(addresses, count)


def counters(
    placed: Sequence[tuple[int, Generator, int]],
    advance: Sequence[tuple[Generator, int]],
    count: int,
) -> Iterator[tuple[int, Column]]:
    """For the word of each random draw where its generator is: `placed` has the word, the generator
    and how far from the call's start the draw lies, `advance` what a call uses up.
    """
    for word, generator, distance in placed:
        used = sum(number for other, number in advance if other is generator)
        yield word, apart(generator.offset + distance, used, count)


def numbers(result: Any) -> list[int] | None:
    """The numbers of the new cells that a step returns, if its result is nothing but single numbers
    in cells of their own; otherwise None.
    """
    found = []
    for part in templates(result):
        if not isinstance(part, Template) or part.fields["shape"] != () or part.cell >= 0:
            return None
        found.append(-1 - part.cell)
    return found if len(set(found)) == len(found) else None

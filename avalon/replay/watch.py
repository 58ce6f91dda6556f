"""A quick look at what a compiled step can see: is every object still the same one?

Comes in: the snapshot that a replay was just compared with, and the arguments of that call. Goes
out: a `Watch`, which says in a microsecond or two that nothing was rebound. Guaranteed: "same" is
never said after a change; after "not the same" the caller compares by value, for an equal object
may have taken another's place. Modules and tensors count their changes in `epoch`, which the caller
compares; the values of top-level tensors are the caller's too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import is_
from typing import Any

import numpy as np

from avalon.replay.snapshot import Entry, Snapshot

_PLAIN = (type(None), bool, int, float, str)


class Watch:
    """What is compared: the arguments, and every container that does not count its changes."""

    def __init__(self, snapshot: Snapshot, arguments: tuple[Any, ...], world: tuple[Any, ...]):
        self.possible = not snapshot.has_arrays
        # of an array, the tensor that was made of it
        self.arguments = [
            made if isinstance(given, np.ndarray) else given
            for given, made in zip(arguments, world, strict=False)
        ]
        self._dicts: list[dict[Any, Any]] = []
        self._lists: list[list[Any]] = []
        self._others: list[Entry] = []
        copies = {id(world), id(world[-1])}  # the last one is the empty dict of named arguments
        for given, converted in zip(arguments, world, strict=False):
            if not isinstance(given, np.ndarray):
                self._add_argument(given, converted, copies)
        for entry in snapshot.entries:
            container = entry.container
            if entry.owner is not None or id(container) in copies:
                continue
            if isinstance(container, dict):
                self._dicts.append(container)
            elif isinstance(container, list):
                self._lists.append(container)
            elif not isinstance(container, tuple):
                self._others.append(entry)
        # Strings may be compared by value; other keys, tensors for instance, only by identity.
        self._plain = [d for d in self._dicts if all(type(key) is str for key in d)]
        self._odd = [d for d in self._dicts if not all(type(key) is str for key in d)]
        self._names = list(chain.from_iterable(self._plain))
        self._sizes = self._measured()
        self._seen = list(self._children())

    def _add_argument(self, given: Any, converted: Any, copies: set[int]) -> None:
        """Watch a container among the arguments; its copy, which has tensors in place of arrays, is
        nobody else's."""
        if isinstance(given, np.ndarray):
            self.possible = False  # its elements may change
        elif type(given) in (list, tuple, dict):
            copies.add(id(converted))
            if type(given) is dict:
                self._dicts.append(given)
                given, converted = list(given.values()), list(converted.values())
            elif type(given) is list:
                self._lists.append(given)
            for one, other in zip(given, converted, strict=True):
                self._add_argument(one, other, copies)

    def same(self) -> bool:
        """Whether every container holds what it held."""
        if self._sizes and (
            self._measured() != self._sizes
            or list(chain.from_iterable(self._plain)) != self._names
            or not all(map(is_, self._children(), self._seen))
        ):
            return False
        for entry in self._others:  # names in closures and globals, slots of objects
            children = entry.kind.children(entry.container)
            if len(children) != len(entry.children) or not all(map(is_, children, entry.children)):
                return False
        return True

    def _measured(self) -> list[int]:
        return [*map(len, self._dicts), *map(len, self._lists)]

    def _children(self) -> Iterator[Any]:
        values = map(dict.values, self._dicts)
        return chain(
            chain.from_iterable(values),
            chain.from_iterable(self._lists),
            chain.from_iterable(self._odd),
        )


def same_argument(given: Any, before: Any) -> bool:
    """Whether an argument that is no tensor is the one of before, or an equal number or string."""
    return given is before or (
        type(given) is type(before) and isinstance(given, _PLAIN) and bool(given == before)
    )

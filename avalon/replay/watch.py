"""A quick look at what a compiled step can see: is every object still the same one?

Comes in: the snapshot that a replay was just compared with, and the arguments of that call. Goes
out: a `Watch`, which says in a microsecond or two that nothing was rebound. Guaranteed: "same" is
never said after a change; after "not the same" the caller compares by value, for an equal object
may have taken another's place. Modules and tensors count their changes in `rebindings`, which the
caller compares; the values of top-level tensors are the caller's too.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat
from operator import is_
from types import CellType, FunctionType
from typing import Any

import numpy as np

from avalon.replay.snapshot import MISSING, Entry, Named, Snapshot

_PLAIN = (type(None), bool, int, float, str)


class Watch:
    """What is compared: the arguments, and every container that does not count its changes.

    Dicts and lists are read by loops of the interpreter itself, in one chain of identities; the
    lengths say where one container ends in it and the next one begins.
    """

    def __init__(self, snapshot: Snapshot, arguments: tuple[Any, ...], world: tuple[Any, ...]):
        self.possible = not snapshot.has_arrays
        # of an array, the tensor that was made of it
        self.arguments = [
            made if isinstance(given, np.ndarray) else given
            for given, made in zip(arguments, world, strict=False)
        ]
        self._sized: list[Any] = []  # dicts and lists
        self._parts: list[Iterable[Any]] = []  # their keys, values and items, read anew each time
        self._cells: list[tuple[CellType, Any]] = []  # of closures, and what they hold
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._functions: list[tuple[FunctionType, Any, Any, Any]] = []  # defaults and code
        self._others: list[Entry] = []
        copies = {id(world), id(world[-1])}  # the last one is the empty dict of named arguments
        for given, converted in zip(arguments, world, strict=False):
            if not isinstance(given, np.ndarray):
                self._add_argument(given, converted, copies)
        for entry in snapshot.entries:
            if entry.owner is None and id(entry.container) not in copies:
                self._add(entry)
        self._lengths = list(map(len, self._sized))
        self._seen = list(chain.from_iterable(self._parts))

    def _add_argument(self, given: Any, converted: Any, copies: set[int]) -> None:
        """Watch a container among the arguments; its copy, which has tensors in place of arrays, is
        nobody else's."""
        if isinstance(given, np.ndarray):
            self.possible = False  # its elements may change
        elif type(given) in (list, tuple, dict):
            copies.add(id(converted))
            if type(given) is dict:
                self._add_sized(given)
                given, converted = list(given.values()), list(converted.values())
            elif type(given) is list:
                self._add_sized(given)
            for one, other in zip(given, converted, strict=True):
                self._add_argument(one, other, copies)

    def _add(self, entry: Entry) -> None:
        """Watch a container of the snapshot."""
        container = entry.container
        if isinstance(container, (dict, list)):
            self._add_sized(container)
        elif isinstance(container, Named) and container.space is not None:
            self._globals += zip(repeat(container.space), container.names, entry.children)
        elif isinstance(container, Named) and container.cells and entry.has_values():
            self._cells += zip(container.cells, entry.children, strict=True)
        elif isinstance(container, Named) and container.function is not None:
            positional, named, code = entry.children
            self._functions.append((container.function, positional, named, code))
        elif not isinstance(container, tuple):
            self._others.append(entry)

    def _add_sized(self, container: dict[Any, Any] | list[Any]) -> None:
        self._sized.append(container)
        if container:  # what is empty has its length only
            self._parts.append(container)  # of a dict, its keys
            if isinstance(container, dict):
                self._parts.append(container.values())

    def same(self) -> bool:
        """Whether every container holds what it held."""
        try:
            if list(map(len, self._sized)) != self._lengths:
                return False
            if not all(map(is_, chain.from_iterable(self._parts), self._seen)):
                return False
            for cell, content in self._cells:
                if cell.cell_contents is not content:
                    return False
        except (ValueError, RuntimeError):  # a name lost its value; a thread fills a container
            return False
        for space, name, content in self._globals:
            if space.get(name, MISSING) is not content:
                return False
        for function, positional, named, code in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not positional
                or function.__kwdefaults__ is not named
            ):
                return False
        for entry in self._others:  # slots of objects, closures whose names have no value yet
            children = entry.kind.children(entry.container)
            if len(children) != len(entry.children) or not all(map(is_, children, entry.children)):
                return False
        return True


def same_argument(given: Any, before: Any) -> bool:
    """Whether an argument that is no tensor is the one of before, or an equal number or string."""
    return given is before or (
        type(given) is type(before) and isinstance(given, _PLAIN) and bool(given == before)
    )

"""What was recorded: a sequence of operations and the positions of their operands.

Comes in: entries, one after the other, from a recorder. Goes out: a key that says when two
sequences are the same program, and the graph, which is built only when somebody asks for it: a
program that is known runs without one. Guaranteed: composite operations are spelled out in the
graph, call by call; each node says which of them it belongs to and which line recorded it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

from avalon.graph.graph import Graph
from avalon.graph.node import Node, Source
from avalon.tracing.operation import Operation

Line = tuple[CodeType, int] | None  # a place in the user's code, whose line number nobody read yet


class Layered(str):
    """A note that begins with the name of a layer: "net.conv1", or "net.conv1 > conv2d"."""

    __slots__ = ()

    @property
    def layer(self) -> str:
        return self.partition(" > ")[0]


class Notes(str):
    """A note on an entry that has one for each of its steps besides."""

    steps: tuple[str, ...]

    @staticmethod
    def of(note: str, steps: Sequence[str]) -> Notes:
        """`note`, with those of the steps."""
        made = Notes(note)
        made.steps = tuple(steps)
        return made


def note_on(note: str, step: int) -> str:
    """The note on a step of an entry with this note."""
    return note.steps[step] if isinstance(note, Notes) else note


def note_behind(note: str, count: int) -> str:
    """The note on an entry that does `count` steps before those of an entry with this note."""
    return Notes.of(note, ("",) * count + note.steps) if isinstance(note, Notes) else note


class Recorded:
    """Entries: in `key`, each operation followed by the positions of its operands; in `lines`,
    where each was recorded. An operation takes one position for each of its results.
    """

    __slots__ = ("key", "lines")

    def __init__(self) -> None:
        self.key: list[Any] = []
        self.lines: list[tuple[Line, str]] = []

    def entries(self) -> Iterator[tuple[Operation, list[int], Source, str]]:
        """Each operation with the positions of its operands, its line and its note."""
        key = self.key
        index = 0
        for line, note in self.lines:
            operation = key[index]
            end = index + 1 + operation.inputs
            yield operation, key[index + 1 : end], source_of(line), note
            index = end

    def build(self) -> tuple[Graph, list[Node]]:
        """A new graph of the entries, without outputs, and the node at each position."""
        graph = Graph("step")
        nodes: list[Node] = []
        for operation, positions, source, note in self.entries():
            graph.source, graph.note = source, note
            if operation.scalar is not None:
                ((shape, dtype),) = operation.results
                nodes.append(graph.input(shape, dtype, scalar=operation.scalar))
                continue
            slots = [nodes[position] for position in positions]
            for number, step in enumerate(operation.steps):
                primitive, places, parameters, shape, dtype, value = step
                graph.note = note_on(note, number)
                if primitive is None:
                    slots.append(graph.constant(value, shape, dtype))
                else:
                    operands = tuple([slots[place] for place in places])
                    slots.append(graph.known_call(primitive, operands, parameters, shape, dtype))
            nodes.extend([slots[slot] for slot in operation.outputs])
        graph.source, graph.note = None, ""
        return graph, nodes

    def results(self) -> list[tuple[Any, Any]]:
        """Shape and dtype of every position."""
        return [result for operation, *_ in self.entries() for result in operation.results]

    def readers(self) -> list[Source]:
        """For each input, the line that reads it first."""
        inputs: dict[int, Source] = {}
        count = 0
        for operation, positions, source, _ in self.entries():
            if operation.scalar is not None:
                inputs[count] = None
            for position in positions:
                if position in inputs and inputs[position] is None:
                    inputs[position] = source
            count += len(operation.results)
        return list(inputs.values())

    def last_source(self) -> Source:
        """The line of the last entry."""
        return source_of(self.lines[-1][0]) if self.lines else None

    def source_at(self, index: int) -> Source:
        """The line of the entry that the key's element `index` belongs to."""
        start = 0
        for _operation, positions, source, _ in self.entries():
            start += 1 + len(positions)
            if index < start:
                return source
        return None


_LIBRARY = str(Path(__file__).resolve().parent.parent) + os.sep
_inside: dict[str, bool] = {}


def user_place() -> Line:
    """Where the innermost frame outside the library is."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        inside = _inside.get(code.co_filename)
        if inside is None:
            inside = _inside[code.co_filename] = code.co_filename.startswith(_LIBRARY)
        if not inside:
            return code, frame.f_lasti
        frame = frame.f_back  # type: ignore[assignment]
    return None


@lru_cache(maxsize=4096)
def source_of(line: Line) -> Source:
    """File and line of a place."""
    if line is None:
        return None
    code, at = line
    found = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= at < end:
            found = found if number is None else number
            break
    return code.co_filename, found


def user_line() -> Source:
    """File and line of the innermost frame outside the library."""
    return source_of(user_place())

"""What makes two graphs the same program: a key of their structure.

Comes in: a graph. Goes out: a `Signature`, which hashes and compares fast enough for a dictionary
in memory, and whose `digest` is the same in every process, for files. Guaranteed: two graphs have
equal signatures exactly if they have the same calls of the same primitives with the same parameters
on the same operands, the same inputs (shapes, dtypes, which are scalars), bit for bit the same
constants, and the same outputs. Names, notes, sources and the numbers handed over at run time do
not count.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

from avalon.graph.node import Call, Constant, Input, Node


class Signature:
    """The structure of a graph, as a key."""

    __slots__ = ("_hash", "_key")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self._key = key
        self._hash = hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return self._hash == other._hash and self._key == other._key

    def __repr__(self) -> str:
        return f"<signature of {len(self._key) - 2} nodes, {self.digest()[:12]}>"

    def digest(self) -> str:
        """SHA-256 of the structure, in hexadecimal."""
        text = hashlib.sha256()
        for part in self._key:
            text.update(repr(part).encode())
            text.update(b"\n")
        return text.hexdigest()


def signature(nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> Signature:
    """The key of a graph of these nodes, inputs and outputs."""
    numbers = {node: number for number, node in enumerate(nodes)}
    number_of = numbers.__getitem__
    parts: list[Any] = []
    add = parts.append
    for node in nodes:
        if isinstance(node, Call):
            parameters = node.parameters
            if parameters:
                operands = tuple(map(number_of, node.operands))
                add((node.primitive, operands, tuple(sorted(parameters.items(), key=_name))))
            else:
                add((node.primitive, *map(number_of, node.operands)))
        elif isinstance(node, Constant):
            add(("constant", _exactly(node.value), node.shape, node.dtype))
        elif isinstance(node, Input):
            add(("input", node.shape, node.dtype, node.scalar))
    add(tuple(map(number_of, inputs)))
    add(tuple(map(number_of, outputs)))
    return Signature(tuple(parts))


def _name(item: tuple[str, Any]) -> str:
    return item[0]


def _exactly(value: Any) -> Any:
    """A constant's value such that equal means the same bits: -0.0 is not 0.0, NaN is itself."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, complex):
        return struct.pack("<dd", value.real, value.imag)
    return value

"""Switches: every rewrite and every kind of fusion has a name, by which it can be left out.

Comes in: the parts of the compiler declare what they do; users say what to leave out for a while.
Goes out: `switch.on`, which the compiler asks where it decides. Guaranteed: no switch changes a
bit, so two runs that differ show a fault in what was left out; but for an algorithm, which shapes
choose when a call is recorded: without it sums have another order, and results other roundings.
Programs that were built with other switches are not used meanwhile; what was recorded before keeps
its algorithms.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from avalon.rebinding import rebindings

KINDS = ("pass", "rule", "fusion", "memory", "algorithm")


@dataclass(frozen=True)
class Switch:
    """Something that the compiler does, and may leave out.

    Attributes:
        name: what `without` takes.
        kind: "pass" (a walk over the whole graph), "rule" (a rewrite of one call), "fusion" (what
            is computed by one kernel), "memory" (where values lie, and what runs at once) or
            "algorithm" (what shapes choose when a call is recorded, with roundings of its own).
        what: a line on what it does.
        within: the wider one without which it finds little to do; a search for what is at fault
            suspects the narrower one first.
    """

    name: str
    kind: str
    what: str
    within: str = ""

    @property
    def on(self) -> bool:
        """Whether the compiler may do it now."""
        return self.name not in _off

    def __str__(self) -> str:
        return f"{self.kind:9} {self.name:26} {self.what}"


_known: dict[str, Switch] = {}
_off: frozenset[str] = frozenset()


def declare(name: str, kind: str, what: str, within: str = "") -> Switch:
    """Make a switch. Declaring a name again replaces it, as running a notebook's cell again does.

    Raises:
        ValueError: the kind is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"[switch] {name}: kind is one of {', '.join(KINDS)}, got {kind!r}")
    made = _known[name] = Switch(name, kind, what, within)
    return made


def switches() -> list[Switch]:
    """Everything that the compiler can leave out, by name; print the items to read them.

    >>> import avalon as av
    >>> print(*[s for s in av.switches() if s.name == "undone"])
    rule      undone                     -(-x) = x, not (not x) = x, ~(~x) = x
    """
    return sorted(_known.values(), key=lambda switch: KINDS.index(switch.kind))


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Leave rewrites and fusions out of what is compiled inside the block, in all threads.

    Results keep every bit, but for those of algorithms; if they do not, one of the names is at
    fault (`av.check` finds which).

    Args:
        names: of `av.switches()`.

    Raises:
        ValueError: a name is unknown.

    >>> import avalon as av
    >>> with av.without("fuse elementwise", "undone"):
    ...     (-(-av.ones(2)) + 1).tolist()
    [2.0, 2.0]
    """
    global _off
    _refuse_unknown(names)
    outer, _off = _off, _off.union(names)
    rebindings.count += 1
    try:
        yield
    finally:
        _off = outer
        rebindings.count += 1


def off() -> frozenset[str]:
    """The names that are left out now: part of what a program was built with."""
    return _off


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name not in _known:
            near = difflib.get_close_matches(name, _known, n=1, cutoff=0.4)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"[without] no switch {name!r}{hint} av.switches() lists them all")

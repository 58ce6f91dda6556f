"""Which results may be computed in the memory of which inputs.

Comes in: a step. Goes out: pairs of values (written, read) that may share memory as far as this
step goes. Guaranteed: every load of the one is at the very element that is stored to the other, so
each element is read before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avalon.schedule.index import Affine
from avalon.schedule.loops import Apply, Coordinate, Expression, Extreme, Inside, Load, Reduce
from avalon.schedule.steps import Step, Value


def donated_pairs(step: Step) -> Iterator[tuple[Value, Value]]:
    """Pairs (written, read) of equal type and size, of which the one depends on the other."""
    if len(step.nest.stages) != 1:
        return
    stores = step.nest.stages[0].stores
    loads = loads_of([store.value for store in stores])
    for store in stores:
        if store.argument < 0 or store.guards:
            continue
        written = step.keys[store.argument]
        for argument in loads_of([store.value]):
            if argument in step.written or loads[argument] != {store.index}:
                continue
            read = step.keys[argument]
            if read.dtype is written.dtype and read.shape == written.shape:
                yield written, read


def loads_of(values: Sequence[Expression]) -> dict[int, set[Affine]]:
    """Where each buffer that the values are computed from is read."""
    found: dict[int, set[Affine]] = {}
    pending = list(values)
    seen: set[int] = set()
    while pending:
        e = pending.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, Load):
            found.setdefault(e.argument, set()).add(e.index)
        pending.extend(held_by(e))
    return found


def held_by(e: Expression) -> Sequence[Expression]:
    """The expressions that one is computed from, those of its addresses included."""
    if isinstance(e, Load):
        return [*e.guards, *_inside(e.index)]
    if isinstance(e, Apply):
        return e.operands
    if isinstance(e, Reduce | Extreme):
        return [e.body]
    return _inside(e.form) if isinstance(e, Inside | Coordinate) else ()


def _inside(form: Affine) -> list[Expression]:
    """Expressions that an index form holds."""
    found: list[Expression] = []
    for variable in form.terms:
        if hasattr(variable, "expression"):
            found.append(variable.expression)
        elif hasattr(variable, "source"):
            found.extend(_inside(variable.source))
    return found

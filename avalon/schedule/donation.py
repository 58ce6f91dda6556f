"""Which results may be computed in the memory of which inputs.

Comes in: a step. Goes out: pairs of values (written, read) that may share memory as far as this
step goes. Guaranteed: every load of the one is at the very element that is stored to the other, so
each element is read before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

from avalon.schedule.index import Affine
from avalon.schedule.loops import (
    Apply,
    Coordinate,
    Expression,
    Extreme,
    Inside,
    Load,
    Nest,
    Reduce,
)  # fmt: skip
from avalon.schedule.steps import Step, Value


def donated_pairs(step: Step) -> Iterator[tuple[Value, Value]]:
    """Pairs (written, read) of equal type and size."""
    nest = step.nest
    if len(nest.stages) != 1:
        return
    loads = loads_of(nest)
    if loads is None:
        return
    for store in nest.stages[0].stores:
        if store.argument < 0 or store.guards:
            continue
        written = step.keys[store.argument]
        for argument, forms in loads.items():
            if argument in step.written or len(forms) != 1:
                continue
            read = step.keys[argument]
            if store.index in forms and read.dtype is written.dtype and read.shape == written.shape:
                yield written, read


def loads_of(nest: Nest) -> dict[int, set[Affine]] | None:
    """Where each buffer of a nest is read; None if some index is data."""
    found: dict[int, set[Affine]] = {}
    pending: list[Expression] = [store.value for stage in nest.stages for store in stage.stores]
    seen: set[int] = set()
    while pending:
        e = pending.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, Load):
            found.setdefault(e.argument, set()).add(e.index)
            pending.extend(e.guards)
            pending.extend(_inside(e.index))
        elif isinstance(e, Apply):
            pending.extend(e.operands)
        elif isinstance(e, Reduce | Extreme):
            pending.append(e.body)
        elif isinstance(e, Inside | Coordinate):
            pending.extend(_inside(e.form))
    return found


def _inside(form: Affine) -> list[Expression]:
    """Expressions that an index form holds."""
    found: list[Expression] = []
    for variable in form.terms:
        if hasattr(variable, "expression"):
            found.append(variable.expression)
        elif hasattr(variable, "source"):
            found.extend(_inside(variable.source))
    return found

"""The gradient of an operation as an operation: one entry, whatever it takes.

Comes in: an operation and which of its operands need a cotangent. Goes out: a `Backward`, made once
for each such case, which says what forward must keep and records the cotangents. Guaranteed: the
steps are those of the primitives' gradient rules, in their order; recorded on values they are one
entry, and on tensors, where the gradient itself is differentiated, they are calls like any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from avalon.differentiation import gradient_of
from avalon.graph.primitive import Movement, lookup
from avalon.tracing.operation import Operation, Step, chain_of, composite_of, spell_out
from avalon.tracing.recorded import Line
from avalon.tracing.values import Value, recorder

_broadcast = lookup("broadcast")
_LARGE = 256  # elements of a mask that is worth a look

# (history, cotangent, kept values, wrap) -> the cotangents of the operands, as tensors
Differentiate = Callable[[Any, Any, Sequence[Value], Callable[..., Any]], list[Any]]


class Backward:
    """How cotangents of operands come from the cotangent of a result.

    Attributes:
        keep: what it reads: operands by their place, then results of the operation.
        releases: what is kept is given back after a walk, which cannot be done again then.
        operation: steps on the cotangent, what is kept, and `numbers`; None if there are none.
        results: for each operand the slot of its cotangent, or None.
        again: how it is recorded on tensors, where that is not plain.
        forward: the operation whose gradient this is, if it is known.
        repeats: its cotangent's elements are only repeated (the gradient of a sum).
    """

    __slots__ = (
        "_may_keep_less", "_taken", "again", "forward", "keep", "note", "numbers", "operation",
        "releases", "repeats", "results",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        keep: Sequence[int],
        operation: Operation | None,
        results: Sequence[int | None],
        releases: bool,
        numbers: Sequence[Value] = (),
        again: Differentiate | None = None,
        forward: Operation | None = None,
    ) -> None:
        self.note = f"gradient of {name}"
        self.keep = tuple(keep)
        self.operation = operation
        self.results = tuple(results)
        self.releases = releases
        self.numbers = tuple(numbers)
        self.again = again
        self.forward = forward
        self.repeats = operation is not None and _only_repeats(operation)
        self._may_keep_less: bool | None = None
        inputs = 1 + len(self.keep) + len(self.numbers)
        self._taken = [
            slot
            if slot is None or operation is None or slot < inputs
            else inputs + operation.outputs.index(slot)
            for slot in results
        ]

    @property
    def may_keep_less(self) -> bool:
        """Whether masks or positions of some size are kept, of which less may do (`joining`)."""
        if self._may_keep_less is None:  # not asked of sizes that are formulas
            count = len(self.results)
            made = () if self.forward is None else self.forward.results
            kinds = [made[place - count] for place in self.keep if made and place >= count]
            self._may_keep_less = any(
                not dtype.is_floating_point and prod(shape) >= _LARGE for shape, dtype in kinds
            )
        return self._may_keep_less

    def record(self, cotangent: Value, kept: Sequence[Value], line: Line) -> list[Value | None]:
        """The cotangents of the operands, recorded on values."""
        known = [cotangent, *kept, *self.numbers]
        if self.operation is not None:
            made = recorder().put(self.operation, known, line, self.note)
            if self.repeats:
                recorder().note_repeats(made[0], self.operation.steps[:-1], cotangent)
            known += made
        return [None if place is None else known[place] for place in self._taken]

    def differentiate(
        self, history: Any, cotangent: Any, kept: Sequence[Value], wrap: Callable[..., Any]
    ) -> list[Any]:
        """The same, recorded on tensors that have histories."""
        if self.again is not None:
            return self.again(history, cotangent, kept, wrap)
        count = len(history.inputs)
        tensors = [
            wrap(value, history.inputs[place] if place < count else history)
            for place, value in zip(self.keep, kept, strict=True)
        ]
        return self.on_tensors(cotangent, tensors, wrap)

    def on_tensors(
        self, cotangent: Any, tensors: Sequence[Any], wrap: Callable[..., Any]
    ) -> list[Any]:
        """The cotangents of the operands by the operation's steps; `tensors` are what is kept."""
        slots = [cotangent, *tensors, *[wrap(number, None) for number in self.numbers]]
        if self.operation is not None:
            slots = self.operation.apply(slots)
        return [None if slot is None else slots[slot] for slot in self.results]


def _only_repeats(operation: Operation) -> bool:
    """Whether all that an operation does is to move its operand, with a broadcast at the end."""
    *before, last = operation.steps
    moves = all(s.primitive is not None and s.primitive.kind is Movement for s in before)
    if not before or not moves or last.primitive is not _broadcast or operation.inputs != 1:
        return False
    count = len(before)
    ends = last.places == (count,) and operation.outputs == (count + 1,)
    return ends and prod(before[-1].shape) != prod(last.shape)


def backward_of(
    operation: Operation, operands: Sequence[Any], needed: tuple[bool, ...]
) -> Backward | None:
    """The gradient of an operation of one primitive; None if it has none."""
    try:
        return operation.backwards[needed]
    except KeyError:
        made = operation.backwards[needed] = _traced(operation, operands, needed)
        return made


def backward_of_chain(
    links: tuple[Operation, ...], operands: Callable[[], Sequence[Sequence[Any]]]
) -> Backward | None:
    """The gradient of `chain_of(links)`, of which `operands` gives each link's, for its first
    operand. None if a link reads more than its other operands.
    """
    chain = chain_of(links)
    try:
        return chain.backwards[_FIRST]
    except KeyError:
        made = chain.backwards[_FIRST] = _chained(chain, links, operands())
        return made


_FIRST = (True,)


def _chained(
    chain: Operation, links: Sequence[Operation], operands: Sequence[Sequence[Any]]
) -> Backward | None:
    parts: list[tuple[Backward, list[int]]] = []  # with the chain's operands that they keep
    before = 0  # of the chain's operands but the first, those of earlier links
    for link, given in zip(links, operands, strict=True):
        part = backward_of(link, given, (True, *[False] * (len(given) - 1)))
        if part is None or part.numbers or not all(0 < p < len(given) for p in part.keep):
            return None
        parts.append((part, [before + place for place in part.keep]))
        before += len(given) - 1
    keep = [place for _, places in parts for place in places]
    inputs = 1 + len(keep)
    steps: list[Step] = []
    slot = 0
    for part, places in reversed(parts):
        known = [slot, *[1 + keep.index(place) for place in places]]
        if part.operation is not None:
            known += spell_out(part.operation, known, steps, inputs)
        taken = part._taken[0]
        assert taken is not None
        slot = known[taken]
    made = None
    if steps:
        others = [(one.shape, one.dtype) for given in operands for one in given[1:]]
        kinds = [links[-1].results[0], *[others[place - 1] for place in keep]]
        made = composite_of(f"gradient of {chain.name}", kinds, steps, [slot])
    results = [slot, *[None] * (chain.inputs - 1)]
    return Backward(chain.name, keep, made, results, False)


def _traced(
    operation: Operation, operands: Sequence[Any], needed: tuple[bool, ...]
) -> Backward | None:
    step = operation.steps[0]
    primitive = step.primitive
    assert primitive is not None
    if primitive.no_gradient_reason:
        return None
    gradient = gradient_of(primitive, operands, step, step.parameters, needed)
    keep = [*gradient.reads, *([len(operands)] if gradient.reads_output else [])]
    slots = {0: 0}  # the rule's slots (cotangent, result, operands, steps) -> the operation's
    for place, kept in enumerate(keep, 1):
        slots[1 if kept == len(operands) else 2 + kept] = place
    inputs = 1 + len(keep)
    steps = []
    for number, (called, places, parameters, shape, dtype, value) in enumerate(gradient.steps):
        slots[2 + len(operands) + number] = inputs + number
        own = tuple([slots[place] for place in places])
        steps.append(Step(called, own, parameters, shape, dtype, value))
    results = [None if slot is None else slots[slot] for slot in gradient.results]
    outputs = sorted({slot for slot in results if slot is not None and slot >= inputs})
    kinds = [(step.shape, step.dtype)]
    for kept in keep:
        like = step if kept == len(operands) else operands[kept]
        kinds.append((like.shape, like.dtype))
    name = primitive.name
    made = composite_of(f"gradient of {name}", kinds, steps, outputs) if outputs else None
    releases = primitive.kind is not Movement and bool(keep)
    return Backward(name, keep, made, results, releases)

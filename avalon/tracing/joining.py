"""What forward keeps when it runs by itself, before anyone asked for gradients.

Comes in: a history, before the calls that it remembers run. Goes out: the same history with a
gradient that reads less, if the rules of `rewrite` find one: of its own operation (layers in a
row), or of that and the one before, if nothing else leads to that (a pooling after a relu, each
called by itself). Guaranteed: the cotangents keep every bit, those of higher order too, for which
the operation is done again; a history that somebody else can reach (a tensor, a hook, another
reader, a walk that is under way) stays as it is; with "simplify" switched off all do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from avalon.switches import off
from avalon.tracing.backward import Backward, Differentiate
from avalon.tracing.history import History
from avalon.tracing.joint_graph import Joined, Kind, join
from avalon.tracing.values import Recorder, Value, recorder

_CAPACITY = 2_000

Wrap = Callable[..., Any]


class Joining:
    """A history that may come to keep less, should forward run by itself."""

    __slots__ = ("_backward", "_kinds", "_later", "_operands")

    def __init__(self, history: History, operands: Sequence[Value]) -> None:
        self._later = weakref.ref(history)
        self._backward = history._backward
        self._kinds = [(operand.shape, operand.dtype) for operand in operands]
        # they may die: what is pending has a place, and the memory of others may be taken over
        self._operands = [
            weakref.ref(one) if one.recorder is None else one.position for one in operands
        ]

    @staticmethod
    def note(here: Recorder, history: History, operands: Sequence[Value]) -> None:
        """Look at a history, of a call on `operands`, once more before what is pending runs."""
        if all(operand.recorder is None or operand.recorder is here for operand in operands):
            here.preparing.append(Joining(history, operands))

    def prepare(self, here: Recorder) -> None:
        """Let the history keep less, if it can and nobody can tell."""
        later = self._later()
        if later is None or later._backward is not self._backward or "simplify" in off():
            return
        if not self._join_two(here, later):
            self._join_one(here, later)

    def _join_one(self, here: Recorder, later: History) -> None:
        backward = self._backward
        count = len(backward.results)
        held = dict(zip(backward.keep, later._kept, strict=True))
        operands = []
        for place, one in enumerate(self._operands):
            value = held.get(place) if isinstance(one, int) else one()
            if value is None:
                return  # it is not kept, and could not be had again
            operands.append(value)
        joined = _joined_of((backward,), self._kinds)
        if joined is None:
            return
        kept = [later._kept[place] for place in joined.reused]
        if joined.fresh is not None:
            kept = here.put(joined.fresh, operands, later.line, later.name) + kept
        later._kept = kept + operands
        later._backward = _Again(backward, joined, len(kept), count)

    def _join_two(self, here: Recorder, later: History) -> bool:
        if not _is_plain(later):
            return False
        (earlier,) = later.inputs
        if earlier is None or not _is_plain(earlier) or earlier.inputs[0] is None:
            return False
        first = earlier.inputs[0]
        row = earlier._backward, self._backward
        joined = _joined_of(row, [(first.shape, first.dtype)])
        if joined is None or joined.fresh is None:
            return False
        (kind,), (place,) = self._kinds, self._operands
        operand = here.at(place, *kind) if isinstance(place, int) else place()
        if operand is None:
            return False
        reference = weakref.ref(earlier)
        later.inputs = ()
        del earlier
        survivor = reference()
        if survivor is not None:  # somebody else leads to it
            later.inputs = (survivor,)
            return False
        later.inputs = (first,)
        later._kept = here.put(joined.fresh, (operand,), later.line, later.name)
        later._backward = made = Backward(
            later.name, range(1, 1 + len(later._kept)), joined.operation, joined.results, True
        )
        made.again = _without_histories(made)
        return True


class _Again(Backward):
    """A gradient that keeps the operands of an operation, and little of what it makes: to be
    differentiated itself, it does the operation again.
    """

    __slots__ = ("_count", "_original", "_start")

    def __init__(self, original: Backward, joined: Joined, start: int, count: int) -> None:
        assert original.forward is not None
        kept = start + original.forward.inputs
        super().__init__(
            original.forward.name, range(kept), joined.operation, joined.results, True,
            original.numbers,
        )  # fmt: skip
        self.note = str(original.note)  # not those of the steps, which are others
        self._original = original
        self._start = start
        self._count = count

    def differentiate(
        self, history: Any, cotangent: Any, kept: Sequence[Value], wrap: Wrap
    ) -> list[Any]:
        """The same, recorded on tensors that have histories."""
        original, operands = self._original, kept[self._start :]
        assert original.forward is not None
        made = recorder().put(original.forward, operands, history.line, history.name)
        known = [*operands[: self._count], *made]
        return original.differentiate(
            history, cotangent, [known[place] for place in original.keep], wrap
        )


def _is_plain(history: History) -> bool:
    """Whether it is that of an operation on one operand, and nobody looks at its cotangent."""
    backward = history._backward
    return (
        type(backward) is Backward
        and backward.forward is not None
        and backward.forward.inputs == len(history.inputs) == 1
        and not backward.numbers
        and not (history.hooks or history.keepers or history.once or history.ends)
    )


_joined: dict[Any, Joined | None] = {}


def _joined_of(row: Sequence[Backward], operands: Sequence[Kind]) -> Joined | None:
    """See `join`, which is asked once."""
    key = (
        *[(one.forward, one.operation, one.keep, one.results) for one in row], *operands, off(),
    )  # fmt: skip
    if key not in _joined:
        if len(_joined) >= _CAPACITY:
            _joined.clear()
        _joined[key] = join(row, operands)
    return _joined[key]


def _without_histories(made: Backward) -> Differentiate:
    """How a gradient is recorded on tensors if nothing that it keeps has one."""

    def again(history: Any, cotangent: Any, kept: Sequence[Value], wrap: Wrap) -> list[Any]:
        return made.on_tensors(cotangent, [wrap(value, None) for value in kept], wrap)

    return again

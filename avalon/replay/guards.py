"""What must hold for a recording to be taken again: all that the function can see is as it was.

Comes in: a recording. Goes out: `Guards`, whose `matches` finds the tensors of a call. Guaranteed:
every call compares all that the function can see with what it saw when it was recorded.
"""

from __future__ import annotations

from typing import Any

from avalon.random import injecting
from avalon.replay.recording import Recording, aliases, kind_of, with_gradients
from avalon.replay.snapshot import Changed
from avalon.settings import settings
from avalon.switches import off
from avalon.tensor.core import Tensor
from avalon.tensor.creation import get_default_dtype
from avalon.tracing.modes import modes


class Guards:
    """What a recording saw.

    Attributes:
        tensors: those that it can see now, as `matches` found them; the gradients that there are
            follow.
        owners: whose gradients these are.
    """

    def __init__(self, recording: Recording) -> None:
        self.snapshot = recording.snapshot
        self.owners = recording.owners
        self.tensors = recording.tensors
        self._kinds = recording.kinds
        self._aliases = recording.aliases
        self._looks = [look(tensor) for tensor in self.tensors]
        self._around = surroundings()

    def matches(self, world: tuple[Any, ...]) -> bool:
        """Whether everything that the step can see is as it was when it was recorded."""
        if self._around != surroundings():
            return False
        try:
            self.snapshot.refresh(world)
        except Changed:
            return False
        tensors, owners = with_gradients(self.snapshot.tensors)
        if owners != self.owners:
            return False
        strangers: list[tuple[int, Tensor]] = []
        for index, found in enumerate(tensors):
            looks = self._looks[index] if index < len(self._looks) else _UNKNOWN
            if (
                found is looks[0]
                and found._cell is looks[1]
                and found.shape is looks[2]
                and found._strides is looks[3]
                and found._requires is looks[4]
                and found._history is None
                and looks[1].memory is None
            ):
                continue
            if kind_of(found) != self._kinds[index]:
                return False
            strangers.append((index, found))
        if strangers and aliases(tensors) != self._aliases:
            return False
        for index, found in strangers:
            if index < len(self._looks):  # gradients are not held between calls
                self._looks[index] = look(found)
        self.tensors = tensors
        return True

    def forget_gradients(self) -> None:
        """Hold no gradient any more, so that whoever else does can be noticed."""
        self.tensors = self.tensors[: len(self.snapshot.tensors)]


def surroundings() -> tuple[Any, ...]:
    """Modes that a recording depends on."""
    return (
        modes.grad, modes.inference, modes.eager, modes.watch is None, get_default_dtype(),
        settings.tier, settings.target, injecting(), off(), settings.threads,
        settings.flush_denormals,
    )  # fmt: skip


def look(tensor: Tensor) -> tuple[Any, ...]:
    """What shows by identity alone that a tensor is still of the kind that it was."""
    return tensor, tensor._cell, tensor.shape, tensor._strides, tensor._requires


_UNKNOWN = (None,) * 5  # the look of a gradient: none is held between calls

"""A count of what Python does to objects that a replayed step has looked at.

Goes out: `rebindings`, whose `count` grows whenever something that exists is rebound: a cell's
value or memory, a tensor's cell, gradient, history or `requires_grad`, a field of a `Module`, an
entry of a `CountedDict`, a setting, a switch, the default dtype. Guaranteed: while the count stays,
a replay that looked at these once need not look again. New objects do not count: nothing has looked
at them yet.
"""

from __future__ import annotations

from typing import Any


class Tally:
    """A count that only grows."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


# `rebindings.count += 1` belongs to every assignment that rebinds something.
rebindings = Tally()


class CountedDict(dict[Any, Any]):
    """A dict whose changes count, in `rebindings` and in `_rebindings`, a count of its own, so that
    nobody has to look into it again: settings and state of optimizers.

    >>> settings = CountedDict(lr=0.1)
    >>> settings["lr"] = 0.2
    >>> settings, settings._rebindings
    ({'lr': 0.2}, 1)
    """

    _rebindings = 0

    def _count(self) -> None:
        self._rebindings += 1
        rebindings.count += 1

    def __setitem__(self, key: Any, value: Any) -> None:
        self._count()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._count()
        super().__delitem__(key)

    def __ior__(self, other: Any) -> CountedDict:  # type: ignore[misc]
        self.update(other)
        return self

    def clear(self) -> None:
        self._count()
        super().clear()

    def pop(self, *arguments: Any) -> Any:
        self._count()
        return super().pop(*arguments)

    def popitem(self) -> tuple[Any, Any]:
        self._count()
        return super().popitem()

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self._count()
        return super().setdefault(key, default)

    def update(self, *arguments: Any, **named: Any) -> None:
        self._count()
        super().update(*arguments, **named)

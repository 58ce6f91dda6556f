"""Devices by name: "cpu" runs today; every layer below takes a `Device`, so that others can join.

Comes in: a name such as "cpu" or "cuda:0". Goes out: a `Device`, which compares by name and
index, and which moves what it is called with: `model = device(model)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from avalon.errors import DeviceError

AVAILABLE = ("cpu",)


@dataclass(frozen=True)
class Device:
    """A place where tensors live and programs run: a `type` ("cpu", "cuda") and an `index`.

    Calling it moves a tensor or a structure of tensors there.
    """

    type: str
    index: int | None = None

    # Moving a structure takes what tensors are, which this leaf must not know; `placement` sets it.
    mover: ClassVar[Callable[[Any, Device], Any] | None] = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={str(self)!r})"

    def __call__(self, struct: Any) -> Any:
        assert Device.mover is not None
        return Device.mover(struct, self)


CPU = Device("cpu")


def device(name: str | Device, index: int | None = None) -> Device:
    """The device of a name such as "cpu" or "cuda:0", whether it is here or not.

    Raises:
        DeviceError: the name is not of this form.

    >>> device("cpu")
    device(type='cpu')
    """
    if isinstance(name, Device):
        return name
    kind, colon, number = name.partition(":")
    if not kind.isalpha() or (colon and not number.isdigit()):
        raise DeviceError(f'[device] {name!r} names no device; expected "cpu" or the form "cuda:0"')
    return Device(kind, int(number) if colon else index)


def best_available_device() -> Device:
    """The fastest device of this machine that Avalon runs on: the CPU, for now."""
    return CPU

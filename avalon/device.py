"""Devices by name: "cpu" runs today; every layer below takes a `Device`, so that others can join.

Comes in: a name such as "cpu" or "cuda:0". Goes out: a `Device`, which compares by name and index.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A place where tensors live and programs run: a `type` ("cpu", "cuda") and an `index`."""

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={str(self)!r})"


CPU = Device("cpu")

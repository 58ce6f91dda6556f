"""Moving tensors and structures between devices: what calling a device does.

Comes in: a tensor or a structure, and a device. Goes out: the same structure, with its tensors
there. Guaranteed: a device that is not here is refused before anything has moved.
"""

from __future__ import annotations

from typing import Any

from avalon.device import AVAILABLE, Device
from avalon.errors import DeviceError
from avalon.struct import leaves
from avalon.tensor.core import Tensor


def move(struct: Any, device: Device) -> Any:
    """`struct` with all its tensors on `device`; tensors that are there stay the tensors they are.

    Raises:
        DeviceError: there is no such device here.

    >>> import avalon as av
    >>> model = av.nn.Linear(2, 1)
    >>> av.device("cpu")(model) is model
    True
    """
    if device.type not in AVAILABLE or device.index:
        raise DeviceError(
            f"[device] '{device}' is not available here; available: {', '.join(AVAILABLE)}. "
            "av.best_available_device() names the fastest one."
        )
    tensors = {"": struct} if isinstance(struct, Tensor) else leaves(struct)
    for tensor in tensors.values():
        assert tensor.device.type == device.type
    return struct


Device.mover = staticmethod(move)

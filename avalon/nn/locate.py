"""Which layer an error happened in, by the name under which the user's code knows it.

Comes in: an error of shapes or dtypes, raised inside a layer. Goes out: the same error, whose
message also names the layer ("net.conv2"), prints it, and gives the shapes of its parameters.
Guaranteed: this runs on the way of an error only, and never replaces the error by one of its own.
"""

from __future__ import annotations

import os
import sys
import types
from itertools import islice
from pathlib import Path
from typing import Any

from avalon.errors import AvalonError
from avalon.struct import walk
from avalon.tensor import Tensor

_LIBRARY = str(Path(__file__).resolve().parent.parent) + os.sep
_WALKED = 10_000  # objects of a candidate that are looked at before it is given up


def name_layer(error: AvalonError, layer: Any) -> None:
    """Add to an error's message that it happened in `layer`, unless a layer inside was named."""
    if getattr(error, "layer", None) is not None or not error.args:
        return
    error.layer = layer  # type: ignore[attr-defined]
    shapes = ", ".join(
        f"{name} {tuple(parameter.shape)}"
        for name, parameter in layer._parameters.items()
        if parameter is not None
    )
    name = name_of(layer)
    place = f"{name}: " if name else ""
    what = f"{type(layer).__name__}({layer.extra_repr()})" + (f" with {shapes}" if shapes else "")
    error.args = (f"{error.args[0]}\n  in {place}{what}", *error.args[1:])


def name_of(layer: Any) -> str:
    """The layer's path from the nearest variable of the callers that leads to it, such as
    net.conv2; "self" only if no caller has another name for that object.
    """
    found = ""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        ours = frame.f_code.co_filename.startswith(_LIBRARY)
        for name, value in list(frame.f_locals.items()):
            if ours and name != "self":
                continue
            path = _path(value, layer)
            if path is None or (value is layer and name == "self"):
                continue
            full = f"{name}.{path}" if path else name
            if name != "self":
                return full
            found = full
        frame = frame.f_back
    return found


def _path(value: Any, layer: Any) -> str | None:
    """The path from `value` to the layer; None if it does not lead there."""
    if value is layer:
        return ""
    if isinstance(value, (Tensor, type, types.ModuleType, types.FunctionType)) or not callable(
        value
    ):
        return None
    try:
        for path, node in islice(walk(value), _WALKED):
            if node is layer:
                return path
    except Exception:  # an object that cannot be walked is not the model
        return None
    return None

"""How tensors print: as PyTorch prints them.

Comes in: a tensor, whose value is computed for it. Goes out: text. Guaranteed: at most a thousand
elements are formatted; larger tensors show their corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avalon import dtype as dtypes
from avalon.tensor.core import Tensor, method
from avalon.tensor.creation import get_default_dtype
from avalon.tensor.interchange import readable


@dataclass
class PrintOptions:
    """What `set_printoptions` sets."""

    precision: int = 4
    threshold: int = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


options = PrintOptions()


def set_printoptions(**wanted: Any) -> None:
    """Set how tensors print: precision, threshold, edgeitems, linewidth, sci_mode.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.set_printoptions.html
    """
    for name, value in wanted.items():
        if not hasattr(options, name):
            raise TypeError(f"[set_printoptions] there is no option {name!r}")
        setattr(options, name, value)


class _Format:
    """One width and notation for all elements of a tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.floating = array.dtype.kind == "f"
        self.scientific = False
        self.whole = True
        self.width = 1
        flat = array.reshape(-1)
        if not self.floating:
            self.width = max((len(self._plain(value)) for value in flat), default=1)
            return
        usual = flat[np.isfinite(flat) & (flat != 0)]
        if usual.size:
            self._choose(np.abs(usual.astype(np.float64)))
        self.width = max((len(self._plain(value)) for value in usual), default=1)

    def _choose(self, usual: NDArray[Any]) -> None:
        largest, smallest = float(usual.max()), float(usual.min())
        self.whole = bool((usual == np.ceil(usual)).all())
        wide = largest / smallest > 1000 or largest > 1e8
        self.scientific = wide or (not self.whole and smallest < 1e-4)
        if options.sci_mode is not None:
            self.scientific = options.sci_mode

    def _plain(self, value: Any) -> str:
        if not self.floating:
            return str(value.item())
        number = float(value)
        if self.scientific:
            return f"{number:.{options.precision}e}"
        if self.whole:
            return f"{number:.0f}" + ("." if np.isfinite(number) else "")
        return f"{number:.{options.precision}f}"

    def __call__(self, value: Any) -> str:
        return self._plain(value).rjust(self.width)


def _corners(array: NDArray[Any]) -> NDArray[Any]:
    edge = options.edgeitems
    for axis in range(array.ndim):
        if array.shape[axis] > 2 * edge:
            ends = [*range(edge), *range(array.shape[axis] - edge, array.shape[axis])]
            array = np.take(array, ends, axis=axis)
    return array


def _lines(array: NDArray[Any], indent: int, short: bool, show: _Format) -> str:
    """The nested brackets of an array."""
    edge = options.edgeitems
    count = array.shape[0] if array.ndim else 0
    if array.ndim == 0:
        return show(array[()])
    cut = short and count > 2 * edge
    if array.ndim == 1:
        places = [*range(edge), *range(count - edge, count)] if cut else range(count)
        items = [show(array[place]) for place in places]
        if cut:
            items.insert(edge, " ...")
        per_line = max(1, (options.linewidth - indent) // (show.width + 2))
        rows = [
            ", ".join(items[start : start + per_line]) for start in range(0, len(items), per_line)
        ]
        return "[" + (",\n" + " " * (indent + 1)).join(rows) + "]"
    places = [*range(edge), *range(count - edge, count)] if cut else range(count)
    blocks = [_lines(array[place], indent + 1, short, show) for place in places]
    if cut:
        blocks.insert(edge, "...")
    between = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + between.join(blocks) + "]"


@method("__repr__")
def representation(x: Tensor) -> str:
    """The elements, and what a reader would not guess."""
    return text_of(x)


def text_of(x: Tensor, prefix: str = "tensor(") -> str:
    """`x` printed after `prefix`, with dtype and history where they are not the usual ones."""
    array = readable(x)
    suffixes = []
    usual = (get_default_dtype(), dtypes.int64, dtypes.bool_)
    if array.size == 0:
        if x.ndim != 1:
            suffixes.append(f"size={x.shape}")
        if x.dtype is not get_default_dtype():
            suffixes.append(f"dtype={x.dtype!r}")
        body = "[]"
    else:
        short = array.size > options.threshold
        if x.dtype.is_complex:
            body = np.array2string(array, separator=", ")
        else:
            body = _lines(array, len(prefix), short, _Format(_corners(array) if short else array))
        if x.dtype not in usual:
            suffixes.append(f"dtype={x.dtype!r}")
    if x.grad_fn is not None:
        suffixes.append(f"grad_fn={x.grad_fn!r}")
    elif x.requires_grad:
        suffixes.append("requires_grad=True")
    text = prefix + body
    last = len(text) - text.rfind("\n") - 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > options.linewidth:
            text += ",\n" + " " * len(prefix) + suffix
            last = len(prefix) + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"


@method("__format__")
def formatted(x: Tensor, specification: str) -> str:
    """A single number by the specification, anything else as it prints."""
    if not x.shape and specification:
        return format(x.item(), specification)
    return str(x) if not specification else object.__format__(x, specification)

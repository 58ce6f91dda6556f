"""Element types: their names, sizes, kinds, and which type two of them promote to.

Comes in: names, NumPy dtypes, Python scalars. Goes out: one `DType` object per type, compared by
identity. Guaranteed: promotion is PyTorch's
(https://docs.pytorch.org/docs/stable/tensor_attributes.html), including the weak categories of
Python scalars and of zero-dimensional tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """One element type. There is one object per type, so `is` compares.

    `kind` is one of "bool", "unsigned", "signed", "float", "complex"; `itemsize` is in bytes.
    `storage` is the NumPy dtype of the bytes in memory: bfloat16, which NumPy lacks, is stored as
    uint16. `reference` is the NumPy dtype in which the reference meaning is computed.
    """

    name: str
    kind: str
    itemsize: int
    storage: np.dtype[Any]
    reference: np.dtype[Any]

    def __repr__(self) -> str:
        return f"avalon.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (by_name, (self.name,))

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "float"

    @property
    def is_complex(self) -> bool:
        return self.kind == "complex"

    @property
    def is_integer(self) -> bool:
        """True for the signed and unsigned integers, not for bool."""
        return self.kind in ("signed", "unsigned")

    @property
    def is_signed(self) -> bool:
        return self.kind in ("signed", "float", "complex")


def _make(name: str, kind: str, storage: str, reference: str | None = None) -> DType:
    stored = np.dtype(storage)
    return DType(name, kind, stored.itemsize, stored, np.dtype(reference or storage))


bool_ = _make("bool", "bool", "bool")
uint8 = _make("uint8", "unsigned", "uint8")
int8 = _make("int8", "signed", "int8")
int16 = _make("int16", "signed", "int16")
int32 = _make("int32", "signed", "int32")
int64 = _make("int64", "signed", "int64")
uint32 = _make("uint32", "unsigned", "uint32")
uint64 = _make("uint64", "unsigned", "uint64")
float16 = _make("float16", "float", "float16")
bfloat16 = _make("bfloat16", "float", "uint16", "float32")
float32 = _make("float32", "float", "float32")
float64 = _make("float64", "float", "float64")
complex64 = _make("complex64", "complex", "complex64")
complex128 = _make("complex128", "complex", "complex128")
# What stands in a graph for a call of several results, which has no value of its own.
several = _make("several", "several", "V")

ALL = (
    bool_, uint8, int8, int16, int32, int64, uint32, uint64,
    float16, bfloat16, float32, float64, complex64, complex128,
)  # fmt: skip
FLOATS = (float16, bfloat16, float32, float64)
INTEGERS = (uint8, int8, int16, int32, int64)

_BY_NAME = {dtype.name: dtype for dtype in ALL}
_BY_NUMPY = {dtype.storage: dtype for dtype in ALL if dtype is not bfloat16}

# uint32 and uint64 exist for random bits; they promote to themselves only.
_CATEGORY = {"bool": 0, "unsigned": 1, "signed": 1, "float": 2, "complex": 3}
_FLOAT_ORDER = {float16: 1, bfloat16: 1, float32: 2, float64: 3}


def by_name(name: str) -> DType:
    """Return the type called `name`, such as "float32"."""
    return _BY_NAME[name]


def checked(dtype: Any) -> DType:
    """The type itself.

    Raises:
        TypeError: it is something else, such as a name or a NumPy dtype.
    """
    if not isinstance(dtype, DType):
        raise TypeError(f"[dtype] expected a type such as avalon.float32, got {dtype!r}")
    return dtype


def from_numpy(dtype: Any) -> DType:
    """Return the type of a NumPy dtype.

    Raises:
        TypeError: if Avalon has no such type (strings, objects, uint16, ...).
    """
    try:
        return _BY_NUMPY[np.dtype(dtype).newbyteorder("=")]
    except KeyError:
        names = ", ".join(t.name for t in ALL)
        raise TypeError(
            f"[dtype] NumPy dtype {np.dtype(dtype)} has no counterpart; Avalon has {names}. "
            "Convert the array first, for example with array.astype('float32')."
        ) from None


def category(dtype: DType) -> int:
    """0 bool, 1 integer, 2 floating point, 3 complex: the categories of type promotion."""
    return _CATEGORY[dtype.kind]


def promote(first: DType, second: DType) -> DType:
    """Return the type in which an operation on `first` and `second` is computed.

    >>> promote(int64, float16)
    avalon.float16
    >>> promote(uint8, int8)
    avalon.int16
    """
    if first is second:
        return first
    a, b = (first, second) if category(first) <= category(second) else (second, first)
    if category(a) < category(b):
        if b.is_complex and a is float64:
            return complex128
        return b
    if a.is_floating_point:
        if _FLOAT_ORDER[a] == _FLOAT_ORDER[b]:
            return float32  # float16 with bfloat16
        return a if _FLOAT_ORDER[a] > _FLOAT_ORDER[b] else b
    if a.is_complex:
        return complex128
    if a.kind == b.kind:
        return a if a.itemsize >= b.itemsize else b
    unsigned, signed = (a, b) if a.kind == "unsigned" else (b, a)
    if unsigned is not uint8:
        raise TypeError(f"[promote] {unsigned!r} promotes to itself only, not with {signed!r}")
    return int16 if signed is int8 else signed


@dataclass(frozen=True)
class FloatLimits:
    """Limits of a floating point type: largest and smallest numbers, spacing at 1."""

    dtype: str
    bits: int
    eps: float
    max: float
    tiny: float

    @property
    def min(self) -> float:
        """The most negative number."""
        return -self.max

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with full precision."""
        return self.tiny


@dataclass(frozen=True)
class IntegerLimits:
    """Limits of an integer type."""

    dtype: str
    bits: int
    min: int
    max: int


def finfo(dtype: DType) -> FloatLimits:
    """The limits of a floating point type.

    >>> finfo(float32).eps
    1.1920928955078125e-07
    """
    if not dtype.is_floating_point:
        raise TypeError(f"[finfo] {dtype!r} is not a floating point type; see iinfo")
    if dtype is bfloat16:
        return FloatLimits("bfloat16", 16, 2.0**-7, (2 - 2.0**-7) * 2.0**127, 2.0**-126)
    found = np.finfo(dtype.storage)
    return FloatLimits(
        dtype.name, found.bits, float(found.eps), float(found.max), float(found.tiny)
    )


def iinfo(dtype: DType) -> IntegerLimits:
    """The limits of an integer type.

    >>> iinfo(int8).max
    127
    """
    if not dtype.is_integer:
        raise TypeError(f"[iinfo] {dtype!r} is not an integer type; see finfo")
    found = np.iinfo(dtype.storage)
    return IntegerLimits(dtype.name, found.bits, int(found.min), int(found.max))

"""Values in registers, and LLVM's spelling of types and numbers.

Comes in: dtypes, lane counts, Python numbers. Goes out: `Value`, `Pointer` and text. Guaranteed: a
number is rounded or wrapped to its dtype before LLVM sees it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

from avalon import dtype as dtypes
from avalon.dtype import DType

Number = int | float | bool


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar (`lanes` 1) or vector in a register.

    `name` is its LLVM text; `number` the Python number that all its lanes are known to equal, if
    any. 16-bit floats are held as their bits. `linear` (x, a, b) says that it is a x + b.
    """

    name: str
    dtype: DType
    lanes: int = 1
    number: Number | None = None
    depth: int = 0  # regions around the instruction that made it
    linear: tuple[Value, int, int] | None = None

    @property
    def type(self) -> str:
        return type_text(self.dtype, self.lanes)


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address in a register; `origin` (p, n) says that it is n bytes after p."""

    name: str
    depth: int = 0
    origin: tuple[Pointer, int] | None = None


Index = Value | int


_BITS = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}


@cache
def type_text(dtype: DType, lanes: int = 1) -> str:
    """LLVM's type of a value in registers.

    >>> type_text(dtypes.float32, 16)
    '<16 x float>'
    """
    if dtype is dtypes.float32:
        scalar = "float"
    elif dtype is dtypes.float64:
        scalar = "double"
    elif dtype is dtypes.bool_:
        scalar = "i1"
    elif dtype.is_complex:
        raise TypeError(f"[emit] no kernel computes with {dtype.name}; compute with its two parts")
    else:
        scalar = _BITS[dtype.itemsize]
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def memory_type(dtype: DType, lanes: int = 1) -> str:
    """LLVM's type of a value in memory: bool takes a byte."""
    return type_text(dtypes.uint8 if dtype is dtypes.bool_ else dtype, lanes)


@cache
def suffix(dtype: DType, lanes: int = 1) -> str:
    """The end of an intrinsic's name for this type, such as "v16f32"."""
    letter = "f" if dtype in (dtypes.float32, dtypes.float64) else "i"
    bits = 1 if dtype is dtypes.bool_ else 8 * dtype.itemsize
    return f"{letter}{bits}" if lanes == 1 else f"v{lanes}{letter}{bits}"


def bfloat16_bits(value: float) -> int:
    """The bits of `value` rounded to bfloat16, to nearest even; every NaN becomes 0x7FC0."""
    if value != value:
        return 0x7FC0
    bits = int(float32_bits(value))
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) & 0xFFFF


def float32_bits(value: float) -> int:
    """The bits of `value` rounded to float32; too large becomes infinite."""
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def number_text(value: Number, dtype: DType) -> str:
    """LLVM's text of a scalar constant, rounded or wrapped to `dtype`."""
    if dtype is dtypes.bool_:
        return "true" if value else "false"
    if dtype is dtypes.float32:
        bits = float32_bits(float(value))
        single = struct.unpack("<f", struct.pack("<I", bits))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"
    if dtype is dtypes.float64:
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    if dtype is dtypes.float16:
        try:
            return str(struct.unpack("<H", struct.pack("<e", float(value)))[0])
        except OverflowError:
            return str(0x7C00 if value > 0 else 0xFC00)
    if dtype is dtypes.bfloat16:
        return str(bfloat16_bits(float(value)))
    return str(wrap(int(value), dtype))


def wrap(value: int, dtype: DType) -> int:
    """`value` modulo the size of the integer type, as the type reads it."""
    bits = 8 * dtype.itemsize
    value &= (1 << bits) - 1
    if dtype.kind == "signed" and value >> (bits - 1):
        value -= 1 << bits
    return value

def only_lane(mask: Value) -> int | None:
    """The only lane that a known mask leaves on."""
    lanes = mask.name.strip("<>").split(", ")
    return lanes.index("i1 true") if lanes.count("i1 true") == 1 else None

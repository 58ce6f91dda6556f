"""Conversions between dtypes, and rounding to whole numbers where the machine has no instruction.

Comes in: a value. Goes out: it in another dtype. Guaranteed: nothing traps, no function is called;
conversions to a float round to nearest even; a float beyond its integer type gives the nearest
integer of that type, NaN gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.values import Value, type_text
from avalon.dtype import DType

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit


def cast(emit: Emit, value: Value, dtype: DType) -> Value:
    """`value` in `dtype`."""
    source = value.dtype
    if source is dtype:
        return value
    if value.number is not None and (source.is_integer or source is dtypes.bool_):
        if dtype.is_floating_point and source.is_integer and dtype.itemsize < 8:
            return _integer_to_float(emit, value, dtype)
        number = bool(value.number) if dtype is dtypes.bool_ else value.number
        return emit.constant(number, dtype, value.lanes)
    if dtype is dtypes.bool_:
        return emit.not_equal(value, emit.constant(0, source, value.lanes))
    if source.is_floating_point:
        if dtype.is_floating_point:
            return _float_to_float(emit, value, dtype)
        return _float_to_integer(emit, value, dtype)
    if dtype.is_floating_point:
        return _integer_to_float(emit, value, dtype)
    if source is dtypes.bool_:
        return emit.convert("zext", value, dtype)
    if dtype.itemsize == source.itemsize:
        return emit.bitcast(value, dtype)
    if dtype.itemsize < source.itemsize:
        return emit.convert("trunc", value, dtype)
    return emit.convert("sext" if source.kind == "signed" else "zext", value, dtype)


def _integer_to_float(emit: Emit, value: Value, dtype: DType) -> Value:
    if dtype.itemsize == 2:
        return cast(emit, _integer_to_float(emit, value, dtypes.float32), dtype)
    return emit.convert("sitofp" if value.dtype.kind == "signed" else "uitofp", value, dtype)


def _float_to_integer(emit: Emit, value: Value, dtype: DType) -> Value:
    """The whole part; the nearest end of the range beyond it, 0 for NaN."""
    if value.dtype.itemsize == 2:
        value = cast(emit, value, dtypes.float32)
    zero = emit.like(value, 0.0)
    signed = dtype.kind == "signed"
    width = 8 * dtype.itemsize
    least = emit.like(value, -(2.0 ** (width - 1)) if signed else 0.0)
    beyond = emit.compare("oge", value, emit.like(value, 2.0 ** (width - signed)))
    known = emit.compare("ord", value, value)
    inside = emit.where(emit.compare("ogt", value, least), value, least)
    inside = emit.where(emit.bit_and(known, emit.logical_not(beyond)), inside, zero)
    greatest = emit.constant((1 << (width - signed)) - 1, dtype, value.lanes)
    return emit.where(beyond, greatest, whole_part(emit, inside, dtype))


def whole_part(emit: Emit, value: Value, dtype: DType) -> Value:
    """The whole part of a float32 or float64 that lies in the range of the integer dtype."""
    if dtype is dtypes.uint64:
        half = emit.like(value, 2.0**63)
        is_large = emit.compare("oge", value, half)
        small = emit.where(is_large, emit.subtract(value, half), value)
        bits = emit.convert("fptosi", small, dtypes.uint64)
        top = emit.constant(1 << 63, dtypes.uint64, value.lanes)
        return emit.where(is_large, emit.bit_xor(bits, top), bits)
    if dtype is dtypes.uint32:
        return emit.convert("trunc", emit.convert("fptosi", value, dtypes.int64), dtype)
    if dtype.itemsize < 4:
        return emit.convert("trunc", emit.convert("fptosi", value, dtypes.int32), dtype)
    return emit.convert("fptosi", value, dtype)


def _float_to_float(emit: Emit, value: Value, dtype: DType) -> Value:
    source = value.dtype
    if source.itemsize == 2:
        wide = _from_half(emit, value) if source is dtypes.float16 else _from_bfloat16(emit, value)
        return cast(emit, wide, dtype)
    if dtype.itemsize == 2:
        value = cast(emit, value, dtypes.float32)
        return _to_half(emit, value) if dtype is dtypes.float16 else _to_bfloat16(emit, value)
    return emit.convert("fpext" if dtype.itemsize > source.itemsize else "fptrunc", value, dtype)


def _from_bfloat16(emit: Emit, value: Value) -> Value:
    bits = emit.convert("zext", value, dtypes.int32)
    return emit.bitcast(emit.shift_left(bits, 16), dtypes.float32)


def _to_bfloat16(emit: Emit, value: Value) -> Value:
    bits = emit.bitcast(value, dtypes.uint32)
    odd = emit.bit_and(emit.shift_right(bits, 16), 1)
    rounded = emit.add(bits, emit.add(odd, 0x7FFF))
    top = emit.shift_right(rounded, 16)
    quiet = emit.constant(0x7FC0, dtypes.uint32, value.lanes)
    chosen = emit.where(emit.compare("uno", value, value), quiet, top)
    return emit.convert("trunc", chosen, dtypes.bfloat16)


def _half_text(lanes: int) -> str:
    return "half" if lanes == 1 else f"<{lanes} x half>"


def _from_half(emit: Emit, value: Value) -> Value:
    if emit.target.has_half:
        half = _half_text(value.lanes)
        bits = emit.pure(
            dtypes.float16, value.lanes, f"bitcast {value.type} {value.name} to {half}", value
        )
        single = emit.constant(0, dtypes.float32, value.lanes).type
        return emit.pure(dtypes.float32, value.lanes, f"fpext {half} {bits.name} to {single}", bits)
    bits = emit.convert("zext", value, dtypes.int32)
    magnitude = emit.bit_and(bits, 0x7FFF)
    sign = emit.shift_left(emit.bit_and(bits, 0x8000), 16)
    # The exponent's bias differs by 112; multiplying by 2**112 also normalises denormals.
    scaled = emit.multiply(
        emit.bitcast(emit.shift_left(magnitude, 13), dtypes.float32),
        emit.constant(2.0**112, dtypes.float32, value.lanes),
    )
    infinite = emit.bit_or(emit.bitcast(scaled, dtypes.int32), 0x7F800000)
    is_special = emit.less(emit.like(magnitude, 0x7BFF), magnitude)
    result = emit.where(is_special, infinite, emit.bitcast(scaled, dtypes.int32))
    return emit.bitcast(emit.bit_or(result, sign), dtypes.float32)


def _to_half(emit: Emit, value: Value) -> Value:
    if emit.target.has_half:
        half, value_bits = _half_text(value.lanes), type_text(dtypes.float16, value.lanes)
        narrow = emit.pure(
            dtypes.float16, value.lanes, f"fptrunc {value.type} {value.name} to {half}", value
        )
        return emit.pure(
            dtypes.float16, value.lanes, f"bitcast {half} {narrow.name} to {value_bits}", narrow
        )
    bits = emit.bitcast(value, dtypes.uint32)
    sign = emit.bit_and(emit.shift_right(bits, 16), 0x8000)
    magnitude = emit.bit_and(bits, 0x7FFFFFFF)
    odd = emit.bit_and(emit.shift_right(magnitude, 13), 1)
    rebias = emit.like(magnitude, (112 << 23) - 0xFFF)
    normal = emit.shift_right(emit.subtract(emit.add(magnitude, odd), rebias), 13)
    # Adding 0.5 puts the last bit of a denormal half at the last bit of the float, rounded.
    one_half = emit.constant(0.5, dtypes.float32, value.lanes)
    shifted = emit.add(emit.bitcast(magnitude, dtypes.float32), one_half)
    denormal = emit.subtract(
        emit.bitcast(shifted, dtypes.uint32), emit.bitcast(one_half, dtypes.uint32)
    )
    result = emit.where(emit.less(magnitude, 113 << 23), denormal, normal)
    infinite = emit.like(magnitude, 0x7C00)
    result = emit.where(emit.less(emit.like(magnitude, 0x477FEFFF), magnitude), infinite, result)
    nan = emit.bit_or(emit.bit_and(emit.shift_right(magnitude, 13), 0x3FF), 0x7E00)
    result = emit.where(emit.less(emit.like(magnitude, 0x7F800000), magnitude), nan, result)
    return emit.convert("trunc", emit.bit_or(result, sign), dtypes.float16)


def round_without_instruction(emit: Emit, name: str, value: Value) -> Value:
    """Round a float ("floor", "ceil", "trunc", "roundeven") by adding a large number to it."""
    single = value.dtype is dtypes.float32
    large = emit.like(value, 2.0**23 if single else 2.0**52)
    magnitude = emit.absolute(value)
    nearest = emit.subtract(emit.add(magnitude, large), large)
    one, zero = emit.like(value, 1.0), emit.like(value, 0.0)
    if name == "trunc":
        over = emit.compare("ogt", nearest, magnitude)
        whole = emit.subtract(nearest, emit.where(over, one, zero))
    else:
        whole = emit.copysign(nearest, value)
        if name == "floor":
            whole = emit.subtract(whole, emit.where(emit.compare("ogt", whole, value), one, zero))
        elif name == "ceil":
            whole = emit.add(whole, emit.where(emit.compare("olt", whole, value), one, zero))
    # Large numbers, infinities and NaN are whole already; the sign of zero is the operand's.
    return emit.where(emit.compare("olt", magnitude, large), emit.copysign(whole, value), value)

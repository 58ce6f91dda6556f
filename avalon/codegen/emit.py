"""The vocabulary of lowering rules: one method per elementwise primitive, for scalars and vectors.

Comes in: `Value`s of one dtype and one number of lanes. Goes out: the instructions of a kernel.
Guaranteed: every method takes every dtype that its primitive accepts; float16 and bfloat16 compute
in float32 and round after each call; a multiply and an add are fused only by `fma`; nothing traps
(division by zero, shifts past the width, casts out of range). On a target without fused
multiply-add `fma` multiplies and adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avalon import dtype as dtypes
from avalon.codegen import (
    conversion,
    division,
    integers,
    math_functions,
    powers,
    special_functions,
    trigonometry,
)
from avalon.codegen.builder import Builder
from avalon.codegen.regions import Loop
from avalon.codegen.values import Index, Pointer, Value, type_text
from avalon.codegen.verify import LOOKUPS, SCALING, verify_text
from avalon.dtype import DType

__all__ = ["Emit", "Index", "Loop", "Pointer", "Value", "verify_text"]

_HALVES = (dtypes.float16, dtypes.bfloat16)


class Emit(Builder):
    """Builds one kernel; see `Builder` for memory, loops and branches."""

    # Plumbing

    def binary(
        self, instruction: str, first: Value, second: Value, dtype: DType | None = None
    ) -> Value:
        """An LLVM instruction on two operands of one type, such as "fadd"."""
        return self.pure(
            dtype or first.dtype, first.lanes,
            f"{instruction} {first.type} {first.name}, {second.name}", first, second,
        )  # fmt: skip

    def convert(self, instruction: str, value: Value, dtype: DType) -> Value:
        """An LLVM conversion, such as "sext", to `dtype`."""
        target = type_text(dtype, value.lanes)
        return self.pure(
            dtype, value.lanes, f"{instruction} {value.type} {value.name} to {target}", value
        )

    def _rounded(self, compute: Callable[..., Value], *values: Value) -> Value:
        """Compute a function of floats, 16-bit ones through float32."""
        dtype = values[0].dtype
        if dtype in _HALVES:
            wide = [self.cast(value, dtypes.float32) for value in values]
            return self.cast(compute(*wide), dtype)
        return compute(*values)

    def _pick(self, value: Value, floating: str, signed: str, unsigned: str = "") -> str:
        if value.dtype.is_floating_point:
            return floating
        return signed if value.dtype.kind == "signed" else unsigned or signed

    def like(self, value: Value, number: int | float) -> Value:
        """A constant of the dtype and lanes of `value`."""
        return self.constant(number, value.dtype, value.lanes)

    # Lanes

    def join(self, first: Value, second: Value) -> Value:
        """The lanes of `first`, then those of `second` (as many)."""
        if first.lanes == 1:
            vector = self.insert(Value("poison", first.dtype, 2), first, 0)
            return self.insert(vector, second, 1)
        return self.shuffle(first, second, range(2 * first.lanes))

    def halves(self, vector: Value) -> tuple[Value, Value]:
        """The lower and the upper half of a vector."""
        half = vector.lanes // 2
        return (
            self.shuffle(vector, None, range(half)),
            self.shuffle(vector, None, range(half, vector.lanes)),
        )

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """Turn n vectors of n lanes (n a power of two) into their columns."""
        lanes = rows[0].lanes
        if len(rows) != lanes or lanes & (lanes - 1):
            raise ValueError(f"[transpose] {len(rows)} vectors of {lanes} lanes are no square tile")
        current, distance = list(rows), 1
        while distance < lanes:
            low = [lane - distance + lanes if lane & distance else lane for lane in range(lanes)]
            high = [lane + lanes if lane & distance else lane + distance for lane in range(lanes)]
            for row in range(lanes):
                if row & distance:
                    continue
                a, b = current[row], current[row + distance]
                current[row] = self.shuffle(a, b, low)
                current[row + distance] = self.shuffle(a, b, high)
            distance *= 2
        return current

    def lookup(self, table: Sequence[float], position: Value) -> Value:
        """For each lane one of eight float32: the one that the lowest three bits of `position`, an
        int32, count.
        """
        lanes = position.lanes
        most = 16 if self.target.name == "avx512" else 8
        if not self.target.has_lookup:
            place = self.cast(self.bit_and(position, 7), dtypes.int64)
            return self.gather(self.table(table, dtypes.float32), place, dtypes.float32)
        if lanes > most:
            return self.join(*[self.lookup(table, half) for half in self.halves(position)])
        if lanes < 8:
            filled = [lane % lanes for lane in range(8)]
            wide = (
                self.broadcast(position, 8) if lanes == 1 else self.shuffle(position, None, filled)
            )
            return self.shuffle(self.lookup(table, wide), None, range(lanes))
        values = self.constants([*table] * (lanes // 8), dtypes.float32)
        name = f"llvm.{LOOKUPS[lanes]}"
        self._declared.add(f"declare {values.type} @{name}({values.type}, {position.type})")
        arguments = f"{values.type} {values.name}, {position.type} {position.name}"
        return self.pure(
            dtypes.float32, lanes, f"call {values.type} @{name}({arguments})", position
        )

    # Arithmetic

    def add(self, first: Value, second: Value | int) -> Value:
        """first + second; a Python number may stand for the second."""
        second = self.like(first, second) if isinstance(second, int) else second
        if first.dtype is dtypes.bool_:
            return self.binary("or", first, second)
        if first.dtype.is_integer:
            return integers.add(self, first, second)
        return self._rounded(lambda a, b: self.binary("fadd", a, b), first, second)

    def subtract(self, first: Value, second: Value | int) -> Value:
        """first - second; a Python number may stand for the second."""
        second = self.like(first, second) if isinstance(second, int) else second
        if first.dtype.is_integer:
            return integers.subtract(self, first, second)
        return self._rounded(lambda a, b: self.binary("fsub", a, b), first, second)

    def multiply(self, first: Value, second: Value | int) -> Value:
        """first * second; a Python number may stand for the second."""
        second = self.like(first, second) if isinstance(second, int) else second
        if first.dtype is dtypes.bool_:
            return self.binary("and", first, second)
        if first.dtype.is_integer:
            return integers.multiply(self, first, second)
        return self._rounded(lambda a, b: self.binary("fmul", a, b), first, second)

    def fma(self, first: Value, second: Value, third: Value) -> Value:
        """first * second + third, rounded once (integers wrap; 16-bit floats through float32)."""
        if not first.dtype.is_floating_point:
            return self.add(self.multiply(first, second), third)
        return self._rounded(self._fma, first, second, third)

    def _fma(self, first: Value, second: Value, third: Value) -> Value:
        if self.target.has_fma:
            return self.intrinsic("fma", first.dtype, first.lanes, first, second, third)
        return self.binary("fadd", self.binary("fmul", first, second), third)

    def divide(self, first: Value, second: Value) -> Value:
        """first / second; integers truncate toward zero, and give 0 for a divisor 0."""
        if first.dtype.is_integer:
            return integers.divide(self, first, second)
        return self._rounded(lambda a, b: self.binary("fdiv", a, b), first, second)

    def floor_divide(self, first: Value, second: Value) -> Value:
        """The quotient rounded down; 0 for an integer divisor 0."""
        if first.dtype.is_integer:
            return integers.floor_divide(self, first, second)
        return self._rounded(lambda a, b: division.floor_divide(self, a, b), first, second)

    def remainder(self, first: Value, second: Value) -> Value:
        """The remainder with the sign of the divisor; 0 for an integer divisor 0."""
        if first.dtype.is_integer:
            return integers.remainder(self, first, second)
        return self._rounded(lambda a, b: division.remainder(self, a, b), first, second)

    def negative(self, value: Value) -> Value:
        """-value"""
        if value.dtype.is_integer:
            return self.subtract(self.like(value, 0), value)
        if value.dtype in _HALVES:
            return self.binary("xor", value, self._bits(value, 0x8000))
        return self.pure(value.dtype, value.lanes, f"fneg {value.type} {value.name}", value)

    def absolute(self, value: Value) -> Value:
        """|value|; the most negative integer stays."""
        if value.dtype.kind in ("unsigned", "bool"):
            return value
        if value.dtype in _HALVES:
            return self.binary("and", value, self._bits(value, 0x7FFF))
        if value.dtype.is_floating_point:
            return self.intrinsic("fabs", value.dtype, value.lanes, value)
        return self.where(self.less(value, self.like(value, 0)), self.negative(value), value)

    def _bits(self, value: Value, bits: int) -> Value:
        """The constant with these bits, in the registers' form of 16-bit floats."""
        held = self.constant(bits, dtypes.int16, value.lanes)
        return Value(held.name, value.dtype, value.lanes)

    def sqrt(self, value: Value) -> Value:
        """The square root, rounded correctly."""
        return self._rounded(lambda x: self.intrinsic("sqrt", x.dtype, x.lanes, x), value)

    def scale(self, value: Value, exponent: Value) -> Value:
        """value * 2**exponent for a whole exponent, rounded once; where the target has scaling."""
        dtype, lanes = value.dtype, value.lanes
        most, least = 64 // dtype.itemsize, 16 // dtype.itemsize
        if lanes > most:
            parts = zip(self.halves(value), self.halves(exponent), strict=True)
            return self.join(*[self.scale(*part) for part in parts])
        if lanes < least:
            filled = [lane % lanes for lane in range(least)]
            wide = [
                self.broadcast(one, least) if lanes == 1 else self.shuffle(one, None, filled)
                for one in (value, exponent)
            ]
            return self.shuffle(self.scale(*wide), None, range(lanes))
        kind, bits = "s" if dtype is dtypes.float32 else "d", 8 * dtype.itemsize * lanes
        mask = f"i{max(lanes, 8)}"
        rounding = (", i32", ", i32 4") if bits == 512 else ("", "")  # as the machine is set
        name, type_ = f"llvm.{SCALING}.p{kind}.{bits}", value.type
        self._declared.add(
            f"declare {type_} @{name}({type_}, {type_}, {type_}, {mask}{rounding[0]})"
        )
        return self.pure(
            dtype, lanes,
            f"call {type_} @{name}({type_} {value.name}, {type_} {exponent.name}, "
            f"{type_} zeroinitializer, {mask} -1{rounding[1]})",
            value, exponent,
        )  # fmt: skip

    def copysign(self, magnitude: Value, sign: Value) -> Value:
        """The magnitude of the first with the sign of the second (float32 and float64)."""
        # Not the intrinsic: where it meets a rounding to float16, LLVM rounds the sign too, by a
        # library function that kernels do not have.
        whole = dtypes.uint32 if magnitude.dtype is dtypes.float32 else dtypes.uint64
        top = 1 << (8 * whole.itemsize - 1)
        bits = self.bit_and(self.bitcast(magnitude, whole), top - 1)
        return self.bitcast(
            self.bit_or(bits, self.bit_and(self.bitcast(sign, whole), top)), magnitude.dtype
        )

    def maximum(self, first: Value, second: Value) -> Value:
        """The larger; NaN wins; of equal ones the first."""
        return self._extreme("ogt", "smax", "umax", "or", first, second)

    def minimum(self, first: Value, second: Value) -> Value:
        """The smaller; NaN wins; of equal ones the first."""
        return self._extreme("olt", "smin", "umin", "and", first, second)

    def _extreme(
        self, order: str, signed: str, unsigned: str, logical: str, first: Value, second: Value
    ) -> Value:
        if first.dtype is dtypes.bool_:
            return self.binary(logical, first, second)
        if first.dtype.is_integer:
            name = signed if first.dtype.kind == "signed" else unsigned
            return self.intrinsic(name, first.dtype, first.lanes, first, second)

        def compute(a: Value, b: Value) -> Value:
            # One instruction on machines whose extreme returns the other operand when unordered.
            extreme = self.where(self.compare(order, b, a), b, a)
            if b.number is not None and b.number == b.number:
                return extreme
            return self.where(self.compare("uno", b, b), b, extreme)

        return self._rounded(compute, first, second)

    # Comparison and choice

    def compare(self, order: str, first: Value, second: Value) -> Value:
        """LLVM's comparison: "olt", "uno", ... of float32 and float64, "slt", "eq" of integers."""
        instruction = "fcmp" if first.dtype.is_floating_point else "icmp"
        return self.binary(f"{instruction} {order}", first, second, dtypes.bool_)

    def _compare(
        self, floating: str, signed: str, unsigned: str, a: Value, b: Value | int
    ) -> Value:
        b = self.like(a, b) if isinstance(b, int) else b
        if a.dtype in _HALVES:
            a, b = self.cast(a, dtypes.float32), self.cast(b, dtypes.float32)
        return self.compare(self._pick(a, floating, signed, unsigned), a, b)

    def less(self, first: Value, second: Value | int) -> Value:
        """first < second"""
        return self._compare("olt", "slt", "ult", first, second)

    def less_equal(self, first: Value, second: Value | int) -> Value:
        """first <= second"""
        return self._compare("ole", "sle", "ule", first, second)

    def equal(self, first: Value, second: Value | int) -> Value:
        """first == second"""
        return self._compare("oeq", "eq", "eq", first, second)

    def not_equal(self, first: Value, second: Value | int) -> Value:
        """first != second"""
        return self._compare("une", "ne", "ne", first, second)

    def where(self, condition: Value, first: Value, second: Value) -> Value:
        """`first` in the lanes where `condition` holds, else `second`."""
        if first.name == second.name:
            return first
        if condition.number is not None:
            return first if condition.number else second
        return self.pure(
            first.dtype, first.lanes,
            f"select {condition.type} {condition.name}, {first.type} {first.name}, "
            f"{second.type} {second.name}",
            condition, first, second,
        )  # fmt: skip

    def either(self, condition: Value, first: Pointer, second: Pointer) -> Pointer:
        """The address `first` where a scalar bool holds, else `second`."""
        if condition.number is not None:
            return first if condition.number else second
        text = f"select i1 {condition.name}, ptr {first.name}, ptr {second.name}"
        picked = self.pure(dtypes.int64, 1, text, condition, first, second)
        return Pointer(picked.name, picked.depth)

    def any_lane(self, mask: Value) -> Value:
        """Whether a lane of the mask is on, a scalar bool."""
        if mask.lanes == 1:
            return mask
        bits = self.pure(dtypes.int64, 1, f"bitcast {mask.type} {mask.name} to i{mask.lanes}", mask)
        return self.pure(dtypes.bool_, 1, f"icmp ne i{mask.lanes} {bits.name}, 0", bits)

    def mask_below(self, count: Index, lanes: int) -> Value:
        """The mask of the lanes whose number is less than `count`."""
        count = self.index(count)
        if lanes == 1:
            return self.less(self.constant(0, dtypes.int64), count)
        if isinstance(count.number, int):
            return self.constants([lane < count.number for lane in range(lanes)], dtypes.bool_)
        capped = self.minimum(count, self.constant(lanes, dtypes.int64))
        limit = self.broadcast(self.convert("trunc", capped, dtypes.int32), lanes)
        return self.less(self.iota(lanes, dtypes.int32), limit)

    # Bits and logic

    def logical_not(self, value: Value) -> Value:
        """not value (bool)"""
        return self.binary("xor", value, self.constant(True, dtypes.bool_, value.lanes))

    def bit_not(self, value: Value) -> Value:
        """All bits flipped."""
        ones = True if value.dtype is dtypes.bool_ else -1
        return self.binary("xor", value, self.constant(ones, value.dtype, value.lanes))

    def bit_and(self, first: Value, second: Value | int) -> Value:
        """first & second"""
        return self.binary("and", first, self._integer(first, second))

    def bit_or(self, first: Value, second: Value | int) -> Value:
        """first | second"""
        return self.binary("or", first, self._integer(first, second))

    def bit_xor(self, first: Value, second: Value | int) -> Value:
        """first ^ second"""
        return self.binary("xor", first, self._integer(first, second))

    def shift_left(self, first: Value, second: Value | int) -> Value:
        """first << second; 0 past the width."""
        return integers.shift(self, "shl", first, self._integer(first, second))

    def shift_right(self, first: Value, second: Value | int) -> Value:
        """first >> second; past the width 0, or -1 for a negative first."""
        return integers.shift(
            self, self._pick(first, "", "ashr", "lshr"), first, self._integer(first, second)
        )

    def _integer(self, like: Value, value: Value | int) -> Value:
        return self.like(like, value) if isinstance(value, int) else value

    # Conversion and rounding

    def cast(self, value: Value, dtype: DType) -> Value:
        """The value in another dtype, as PyTorch converts on the CPU."""
        return conversion.cast(self, value, dtype)

    def bitcast(self, value: Value, dtype: DType) -> Value:
        """The same bits read as another dtype of the same size."""
        source, target = value.type, type_text(dtype, value.lanes)
        if source == target:
            return Value(value.name, dtype, value.lanes, None, value.depth)
        return self.convert("bitcast", value, dtype)

    def floor(self, value: Value) -> Value:
        """Rounded down."""
        return self._round("floor", value)

    def ceil(self, value: Value) -> Value:
        """Rounded up."""
        return self._round("ceil", value)

    def round(self, value: Value) -> Value:
        """Rounded to the nearest whole number, halves to the even one."""
        return self._round("roundeven", value)

    def truncate(self, value: Value) -> Value:
        """Rounded toward zero."""
        return self._round("trunc", value)

    def _round(self, name: str, value: Value) -> Value:
        if not value.dtype.is_floating_point:
            return value
        if self.target.has_rounding:
            return self._rounded(lambda x: self.intrinsic(name, x.dtype, x.lanes, x), value)
        return self._rounded(lambda x: conversion.round_without_instruction(self, name, x), value)

    # Functions

    def _function(self, function: Callable[..., Value], *values: Value) -> Value:
        return self._rounded(lambda *wide: function(self, *wide), *values)

    def exp(self, value: Value) -> Value:
        """e to the power of value."""
        return self._function(math_functions.exp, value)

    def expm1(self, value: Value) -> Value:
        """exp(value) - 1, accurate near 0."""
        return self._function(math_functions.expm1, value)

    def log(self, value: Value) -> Value:
        """The natural logarithm."""
        return self._function(math_functions.log, value)

    def log1p(self, value: Value) -> Value:
        """log(1 + value), accurate near 0."""
        return self._function(math_functions.log1p, value)

    def sin(self, value: Value) -> Value:
        """The sine of an angle in radians."""
        return self._function(trigonometry.sin, value)

    def cos(self, value: Value) -> Value:
        """The cosine of an angle in radians."""
        return self._function(trigonometry.cos, value)

    def tanh(self, value: Value) -> Value:
        """The hyperbolic tangent."""
        return self._function(math_functions.tanh, value)

    def erf(self, value: Value) -> Value:
        """The error function."""
        return self._function(math_functions.erf, value)

    def erfinv(self, value: Value) -> Value:
        """The inverse of the error function."""
        return self._function(special_functions.erfinv, value)

    def lgamma(self, value: Value) -> Value:
        """The logarithm of |gamma(value)|."""
        return self._function(special_functions.lgamma, value)

    def digamma(self, value: Value) -> Value:
        """The derivative of lgamma."""
        return self._function(special_functions.digamma, value)

    def polygamma(self, value: Value, order: int) -> Value:
        """The derivative of that order of digamma (order >= 1)."""
        return self._rounded(lambda x: special_functions.polygamma(self, x, order), value)

    def atan2(self, first: Value, second: Value) -> Value:
        """The angle of the point (second, first)."""
        return self._function(trigonometry.atan2, first, second)

    def power(self, first: Value, second: Value) -> Value:
        """first to the power of second; integers wrap, and negative exponents give 0, 1 or -1."""
        if first.dtype.is_integer:
            return integers.power(self, first, second)
        return self._function(powers.power, first, second)

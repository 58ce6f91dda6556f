"""Exponentials, logarithms, tanh, erf and powers, as vector code for float32 and float64.

Comes in: an `Emit` and a value of one of the two types, scalar or vector. Goes out: the function's
value. Guaranteed: the same bits for every number of lanes and every target with fused multiply-add;
NaN, infinities, signed zeros and denormals as PyTorch has them. Polynomials were fitted by Remez's
exchange in 200-bit arithmetic (float32's erf otherwise), with the leading coefficients rounded one
after another; the comment at each says what it approximates and how well.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from avalon import dtype as dtypes
from avalon.codegen.values import Value
from avalon.dtype import DType

if TYPE_CHECKING:
    from avalon.codegen.emit import Emit


class Format(NamedTuple):
    """The layout of a float: its integer type, the fraction's width, the exponent's bias."""

    integer: DType
    fraction: int
    bias: int

    @property
    def shifter(self) -> float:
        """Added to a small number, it leaves the nearest whole number in the low bits."""
        return 1.5 * 2.0**self.fraction

    def bits(self, value: float) -> int:
        """The bits of a number, as a signed integer."""
        if self.fraction == 23:
            return int(struct.unpack("<i", struct.pack("<f", value))[0])
        return int(struct.unpack("<q", struct.pack("<d", value))[0])


SINGLE = Format(dtypes.int32, 23, 127)
DOUBLE = Format(dtypes.int64, 52, 1023)


def format_of(value: Value) -> Format:
    """The layout of a float32 or float64 value."""
    return SINGLE if value.dtype is dtypes.float32 else DOUBLE


def polynomial(emit: Emit, x: Value, coefficients: Sequence[float]) -> Value:
    """c[0] + c[1] x + c[2] x**2 + ..., by Horner's rule with fused multiply-adds."""
    result = emit.like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = emit.fma(result, x, emit.like(x, coefficient))
    return result


def at_most(emit: Emit, x: Value, bound: float) -> Value:
    """min(x, bound); NaN stays."""
    limit = emit.like(x, bound)
    return emit.where(emit.compare("olt", limit, x), limit, x)


def at_least(emit: Emit, x: Value, bound: float) -> Value:
    """max(x, bound); NaN stays."""
    limit = emit.like(x, bound)
    return emit.where(emit.compare("ogt", limit, x), limit, x)


class Whole(NamedTuple):
    """A whole number, as a float and as an integer."""

    number: Value
    integer: Value


def nearest(emit: Emit, x: Value, factor: float) -> Whole:
    """x * factor rounded to a whole number. Small results only."""
    form = format_of(x)
    shifter = emit.like(x, form.shifter)
    shifted = emit.fma(x, emit.like(x, factor), shifter)
    bits = emit.bitcast(shifted, form.integer)
    count = emit.subtract(bits, emit.like(bits, form.bits(form.shifter)))
    return Whole(emit.subtract(shifted, shifter), count)


def power_of_two(emit: Emit, exponent: Value, dtype: DType) -> Value:
    """2**exponent for an exponent of a normal number."""
    form = SINGLE if dtype is dtypes.float32 else DOUBLE
    biased = emit.add(exponent, emit.like(exponent, form.bias))
    return emit.bitcast(emit.shift_left(biased, form.fraction), dtype)


def scale(emit: Emit, x: Value, exponent: Whole) -> Value:
    """x * 2**exponent, rounded once, for x near 1."""
    if emit.target.has_scaling:
        return emit.scale(x, exponent.number)
    # Two factors, so that denormal results are rounded once and large ones become infinite.
    half = emit.shift_right(exponent.integer, 1)
    scaled = emit.multiply(x, power_of_two(emit, half, x.dtype))
    rest = emit.subtract(exponent.integer, half)
    return emit.multiply(scaled, power_of_two(emit, rest, x.dtype))


def scale_normal(emit: Emit, x: Value, exponent: Whole) -> Value:
    """x * 2**exponent for an exponent of a normal number."""
    if emit.target.has_scaling:
        return emit.scale(x, exponent.number)
    return emit.multiply(x, power_of_two(emit, exponent.integer, x.dtype))


# (e^r - 1 - r) / r^2 for |r| <= ln(2)/2; errors relative to (e^r - 1): 2^-26.1, 2^-61.6
_EXP_SINGLE = (
    0.5, 0.16666539013385773, 0.04166661575436592, 0.008367105387151241, 0.0013916556490585208,
)  # fmt: skip
_EXP_DOUBLE = (
    0.5, 0.16666666666666677, 0.04166666666666667, 0.008333333333321457, 0.0013888888888879181,
    0.00019841269886500522, 2.4801587342718513e-05, 2.7557243869022213e-06,
    2.7557252678169556e-07, 2.510915000720924e-08, 2.092285087308479e-09,
)  # fmt: skip
# ln(2) in two parts; the first has so few bits that its small multiples are exact.
_LN2_SINGLE = (0.693359375, -2.12194440054690583e-4)
_LN2_DOUBLE = (0.6931471803691238, 1.9082149292705877e-10)


def _ln2(x: Value) -> tuple[float, float]:
    return _LN2_SINGLE if x.dtype is dtypes.float32 else _LN2_DOUBLE


def exp_reduced(emit: Emit, x: Value) -> tuple[Whole, Value]:
    """n and e^r - 1 with x = n ln(2) + r; n is whole."""
    high, low = _ln2(x)
    exponent = nearest(emit, x, 1 / math.log(2))
    r = emit.fma(exponent.number, emit.like(x, -high), x)
    r = emit.fma(exponent.number, emit.like(x, -low), r)
    coefficients = _EXP_SINGLE if x.dtype is dtypes.float32 else _EXP_DOUBLE
    rest = polynomial(emit, r, coefficients)
    return exponent, emit.fma(emit.multiply(r, r), rest, r)


def exp(emit: Emit, x: Value) -> Value:
    """e to the power of x (float32: within 1.04 units in the last place)."""
    low, high = (-105.0, 89.0) if x.dtype is dtypes.float32 else (-746.0, 710.0)
    exponent, rest = exp_reduced(emit, at_least(emit, at_most(emit, x, high), low))
    return scale(emit, emit.add(rest, emit.like(x, 1.0)), exponent)


def exp_normal(emit: Emit, x: Value) -> Value:
    """e to the power of x where the result is a normal number."""
    exponent, rest = exp_reduced(emit, x)
    return scale_normal(emit, emit.add(rest, emit.like(x, 1.0)), exponent)


def expm1(emit: Emit, x: Value) -> Value:
    """exp(x) - 1 (float32: within 1.58 units in the last place)."""
    low, high = (-17.5, 89.0) if x.dtype is dtypes.float32 else (-37.5, 710.0)
    (_, count), rest = exp_reduced(emit, at_least(emit, at_most(emit, x, high), low))
    # Half the power, as 2**128 itself is no float32.
    power = power_of_two(emit, emit.subtract(count, 1), x.dtype)
    half = emit.fma(power, rest, emit.subtract(power, emit.like(x, 0.5)))
    result = emit.where(emit.equal(count, 0), rest, emit.add(half, half))
    return emit.copysign(result, x)


# (log(1+f) - f + f^2/2) / f^3 for sqrt(1/2) <= 1+f <= sqrt(2): relative to log(1+f) 2^-29.3
_LOG_SINGLE = (
    0.3333331346511841, -0.2500016987323761, 0.20002225041389465, -0.16659212112426758,
    0.142094224691391, -0.12552203238010406, 0.12112265080213547, -0.10903575271368027,
    0.05316586047410965,
)  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in s^2, for s = f / (2+f): relative to log 2^-65.6
_LOG_DOUBLE = (
    0.6666666666666666, 0.4000000000000494, 0.28571428569401497, 0.22222222608770195,
    0.18181779191418177, 0.15386996658279242, 0.13251961062768788, 0.1323655661382235,
)  # fmt: skip


def split(emit: Emit, x: Value) -> tuple[Value, Value]:
    """k (an integer) and m with x = 2^k m and sqrt(1/2) <= m < sqrt(2), for positive normal x."""
    form = format_of(x)
    bits = emit.bitcast(x, form.integer)
    root = emit.like(bits, form.bits(math.sqrt(0.5)))
    offset = emit.subtract(bits, root)
    exponent = emit.shift_right(offset, form.fraction)
    fraction = emit.bit_and(offset, (1 << form.fraction) - 1)
    mantissa = emit.bitcast(emit.add(fraction, root), x.dtype)
    return exponent, mantissa


def whole(emit: Emit, exponent: Value, dtype: DType) -> Value:
    """A small integer as a float."""
    # Every machine converts int32 in vectors; int64 only some do.
    return emit.cast(emit.cast(exponent, dtypes.int32), dtype)


def log_sum(emit: Emit, k: Value, f: Value) -> Value:
    """k ln(2) + log(1 + f) for f near 0."""
    high, low = _ln2(f)
    square = emit.multiply(f, f)
    if f.dtype is dtypes.float32:
        rest = emit.multiply(emit.multiply(square, f), polynomial(emit, f, _LOG_SINGLE))
        rest = emit.fma(k, emit.like(f, low), rest)
        rest = emit.fma(square, emit.like(f, -0.5), rest)
        return emit.fma(k, emit.like(f, high), emit.add(f, rest))
    s = emit.divide(f, emit.add(f, emit.like(f, 2.0)))
    z = emit.multiply(s, s)
    half = emit.multiply(square, emit.like(f, 0.5))
    inner = emit.fma(z, polynomial(emit, z, _LOG_DOUBLE), half)
    rest = emit.fma(s, inner, emit.multiply(k, emit.like(f, low)))
    return emit.fma(k, emit.like(f, high), emit.subtract(f, emit.subtract(half, rest)))


def log_edges(emit: Emit, x: Value, value: Value) -> Value:
    """`value`, a logarithm of x, put right where x is 0, negative, infinite or NaN."""
    zero = emit.like(x, 0.0)
    value = emit.where(emit.compare("olt", x, emit.like(x, math.inf)), value, x)
    value = emit.where(emit.compare("olt", x, zero), emit.like(x, math.nan), value)
    return emit.where(emit.compare("oeq", x, zero), emit.like(x, -math.inf), value)


def normalized(emit: Emit, x: Value) -> tuple[Value, Value]:
    """k and x 2^-k, where k is 0 but for denormal x, which become normal."""
    form = format_of(x)
    shift = float(form.fraction + 2)
    denormal = emit.compare("olt", x, emit.like(x, 2.0 ** (1 - form.bias)))
    scaled = emit.where(denormal, emit.multiply(x, emit.like(x, 2.0**shift)), x)
    return emit.where(denormal, emit.like(x, -shift), emit.like(x, 0.0)), scaled


def log(emit: Emit, x: Value) -> Value:
    """The natural logarithm (float32: within 0.81 units in the last place)."""
    extra, scaled = normalized(emit, x)
    exponent, mantissa = split(emit, scaled)
    k = emit.add(whole(emit, exponent, x.dtype), extra)
    return log_edges(emit, x, log_sum(emit, k, emit.subtract(mantissa, emit.like(x, 1.0))))


def log1p(emit: Emit, x: Value) -> Value:
    """log(1 + x) (float32: within 1.39 units in the last place)."""
    form, one = format_of(x), emit.like(x, 1.0)
    u = emit.add(x, one)
    exponent, mantissa = split(emit, u)
    # f = (1 + x) 2^-k - 1 from x itself, as u has lost its last bits.
    power = power_of_two(emit, emit.negative(exponent), x.dtype)
    exact = emit.fma(x, power, emit.subtract(power, one))
    is_small = emit.less(exponent, form.fraction + 9)
    f = emit.where(is_small, exact, emit.subtract(mantissa, one))
    k = whole(emit, exponent, x.dtype)
    return emit.copysign(log_edges(emit, u, log_sum(emit, k, f)), x)


# (tanh(a) - a) / a^3 in a^2 for a <= 0.55: relative to tanh 2^-29.8, 2^-60.6
_TANH_SINGLE = (
    -0.33333319425582886, 0.13332636654376984, -0.05385684221982956, 0.02108823135495186,
    -0.006295469123870134,
)  # fmt: skip
_TANH_DOUBLE = (
    -0.333333333333333, 0.1333333333332656, -0.05396825396371527, 0.021869488384278987,
    -0.008863232571317001, 0.003592091685236137, -0.0014555403728154863, 0.0005884333296765672,
    -0.00023335078486407898, 8.326903254029045e-05, -1.9463454493633676e-05,
)  # fmt: skip


def tanh(emit: Emit, x: Value) -> Value:
    """The hyperbolic tangent (float32: within 1.49 units in the last place)."""
    single = x.dtype is dtypes.float32
    a, one = emit.absolute(x), emit.like(x, 1.0)
    square = emit.multiply(a, a)
    rest = polynomial(emit, square, _TANH_SINGLE if single else _TANH_DOUBLE)
    small = emit.fma(emit.multiply(square, a), rest, a)
    twice = at_most(emit, emit.add(a, a), 20.0 if single else 44.0)
    denominator = emit.add(exp_normal(emit, twice), one)
    large = emit.subtract(one, emit.divide(emit.like(x, 2.0), denominator))
    is_small = emit.compare("olt", a, emit.like(x, 0.55))
    return emit.copysign(emit.where(is_small, small, large), x)


# erf(a) around the multiples of 17/32 up to 3.71875, in powers of the distance, at most 17/64; of
# the first less a itself. Fitted by least squares at Chebyshev's points. Errors: around 0 2^-30.0
# of the value, elsewhere at most 2^-25.2.
_ERF_STEP = 17 / 32
_ERF_END = 127 / 32  # from here on it is 1
_ERF_SINGLE = (
    (
        0.0, 0.12837916612625122, 0.0, -0.37612593173980713,
        0.0, 0.11280569434165955, 0.0, -0.02613689750432968,
    ),
    (
        0.5475284457206726, 0.8509138822555542, -0.4520474374294281, -0.12353593856096268,
        0.18344661593437195, -0.0019617180805653334, -0.04733915999531746, 0.007803759537637234,
    ),
    (
        0.867058277130127, 0.36490288376808167, -0.3877105414867401, 0.15299366414546967,
        0.04801369830965996, -0.06628822535276413, 0.00974074937403202, 0.012485981918871403,
    ),
    (
        0.975797712802887, 0.08898772299289703, -0.14182338118553162, 0.12102604657411575,
        -0.049186546355485916, -0.004980181809514761, 0.01580960862338543, -0.005720035172998905,
    ),
    (
        0.9973459839820862, 0.012340820394456387, -0.02622566744685173, 0.033037398010492325,
        -0.026325572282075882, 0.012496892362833023, -0.001982411602512002, -0.0019070168491452932,
    ),
    (
        0.9998276829719543, 0.000973238202277571, -0.0025835710112005472, 0.004253458231687546,
        -0.004832591395825148, 0.003811744973063469, -0.0017315432196483016, 0.0006633110460825264,
    ),
    (
        0.9999934434890747, 4.3647065467666835e-05, -0.00013841030886396766,
        0.0002810959704220295, -0.000421515986090526, 0.0004275152459740639,
        -0.00019494432490319014, 0.00021864955488126725,
    ),
    (
        0.9999998807907104, 1.1131409110021195e-06, -7.037088835204486e-06, 9.892669368127827e-06,
        6.517220754176378e-05, 2.2278654796537012e-05, -0.0006899506552144885,
        2.0401434085215442e-05,
    ),
)  # fmt: skip
# erf(a) / a - 1 in a^2 for a <= 1: relative to erf 2^-58
_ERF_DOUBLE = (
    0.1283791670955126, -0.376126389031841, 0.11283791670971086, -0.02686617064802661,
    0.005223977652628543, -0.0008548328531024393, 0.00012055385980494646,
    -1.4926875436388655e-05, 1.6480947740419042e-06, -1.6555799509371145e-07,
    1.6003262845015267e-08, -1.6422275894590128e-09, 1.4265014106000574e-10,
)  # fmt: skip
# -log(1 - erf(a)) for 1 <= a <= 6: 1 - e^-p is within 2^-59.8 of erf
_ERF_TAIL_DOUBLE = (
    -2.6847380228743855e-08, 1.1283795094902436, 0.6366177073720507, 0.10278043931701376,
    -0.019149444165414743, -0.00016693525790660197, 0.0016298858287333215, -0.00050699876858334,
    -5.860516222904612e-05, 0.00013468669413157228, -7.746790524805545e-05,
    2.9787355627927905e-05, -8.726507563892221e-06, 2.0241668739450906e-06,
    -3.7498497457846144e-07, 5.509335128996231e-08, -6.293659134959736e-09,
    5.396456121627415e-10, -3.268836676186709e-11, 1.2470509552885027e-12,
    -2.2524444654512566e-14,
)  # fmt: skip


def erf(emit: Emit, x: Value) -> Value:
    """The error function (float32: within 0.91 units in the last place)."""
    single = x.dtype is dtypes.float32
    return _erf_single(emit, x) if single else _erf_double(emit, x)


def _erf_single(emit: Emit, x: Value) -> Value:
    """A polynomial for each of eight parts of the axis, whose coefficients are looked up."""
    a = at_most(emit, emit.absolute(x), _ERF_END)
    shifter = emit.like(x, SINGLE.shifter)
    shifted = emit.fma(a, emit.like(x, 1 / _ERF_STEP), shifter)
    part = emit.bitcast(shifted, dtypes.int32)  # in its lowest bits
    r = emit.fma(emit.subtract(shifted, shifter), emit.like(x, -_ERF_STEP), a)
    columns = list(zip(*_ERF_SINGLE, strict=True))
    result = emit.lookup(columns[-1], part)
    for column in reversed(columns[1:-1]):
        result = emit.fma(result, r, emit.lookup(column, part))
    middle = emit.lookup(columns[0], part)
    # Around 0 it is r itself that the rest is added to, which loses nothing; elsewhere r is less.
    result = emit.fma(result, r, emit.where(emit.compare("ogt", middle, r), middle, r))
    return emit.copysign(result, x)


def _erf_double(emit: Emit, x: Value) -> Value:
    a, one = emit.absolute(x), emit.like(x, 1.0)
    small = emit.fma(a, polynomial(emit, emit.multiply(a, a), _ERF_DOUBLE), a)
    tail = polynomial(emit, at_most(emit, a, 6.0), _ERF_TAIL_DOUBLE)
    large = emit.subtract(one, exp_normal(emit, emit.negative(tail)))
    is_small = emit.compare("olt", a, one)
    return emit.copysign(emit.where(is_small, small, large), x)

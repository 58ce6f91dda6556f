"""Random numbers: counter-based generators, seeds, and a way to feed numbers from elsewhere.

Comes in: shapes of draws. Goes out: tensors of uniform and normal numbers, integers, truth values,
permutations. Guaranteed: a draw is a function of the generator's seed and of a range of counters
that is reserved when the draw is recorded, in Python's order, even if it is never computed; the
numbers are the same on every device and for every number of threads. `inject` feeds recorded draws
from outside, so that a run can be compared with another library's.

The bits are Philox4x32-10's (Salmon and others, 2011): one counter gives four words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np

from avalon import dtype as dtypes, ops
from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.ops.source import philox
from avalon.shape import Shape
from avalon.tensor.composite import composite
from avalon.tensor.core import Tensor, source
from avalon.tensor.creation import as_tensor, tensor
from avalon.tracing.values import Value

Draws = Callable[[str, Shape, DType], Any]

_MASK = (1 << 64) - 1


class Counter(int):
    """A counter or key of a recorded draw: a number that knows whose it is.

    Replaying a recorded step takes the generator's numbers of then: `generator`, and how far behind
    the start of the recording's range the draw lies, are read from here.
    """

    generator: Generator
    is_key: bool

    @staticmethod
    def of(generator: Generator, number: int, is_key: bool) -> Counter:
        """A counter (or, if `is_key`, the seed) of `generator`."""
        made = Counter(number)
        made.generator = generator
        made.is_key = is_key
        return made


class Generator:
    """A stream of random numbers: a seed, and the offset of the first counter not used yet.

    >>> import avalon as av
    >>> generator = av.Generator().manual_seed(3)
    >>> first = av.rand(2, generator=generator)
    >>> again = av.rand(2, generator=generator.manual_seed(3))
    >>> bool((first == again).all())
    True

    Source: https://docs.pytorch.org/docs/stable/generated/torch.Generator.html
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = device
        self._seed = 67280421310721
        self._key: Value | None = None  # the seed of the last draw
        self.offset = 0

    def __repr__(self) -> str:
        return f"<avalon.Generator seed={self._seed} offset={self.offset}>"

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` (any 64-bit integer, negative ones too) from its beginning."""
        if not -(1 << 63) <= seed < 1 << 64:
            raise RuntimeError(f"[manual_seed] seed {seed} does not fit 64 bits")
        self._seed = int(seed) & _MASK
        self.offset = 0
        return self

    def seed(self) -> int:
        """Start the stream of a seed that the operating system draws, and return it."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)
        return self._seed

    def initial_seed(self) -> int:
        """The seed of this stream."""
        return self._seed

    def get_state(self) -> Tensor:
        """Seed and offset as 16 bytes (uint8), from which `set_state` goes on."""
        return tensor(np.array([self._seed, self.offset], np.uint64).view(np.uint8))

    def set_state(self, state: Tensor) -> None:
        """Go on from a state that `get_state` gave.

        Raises:
            RuntimeError: `state` is not 16 bytes.
        """
        words = np.ascontiguousarray(np.asarray(state))
        if words.dtype != np.uint8 or words.shape != (16,):
            raise RuntimeError(
                f"[set_state] expected a uint8 tensor of 16 elements from get_state(), got "
                f"{words.dtype} of shape {words.shape}"
            )
        seed, offset = words.view(np.uint64)
        self._seed, self.offset = int(seed), int(offset)

    def clone_state(self) -> Generator:
        """A generator that goes on with the same numbers."""
        made = Generator(self.device)
        made._seed, made.offset = self._seed, self.offset
        return made

    def reserve(self, words: int) -> tuple[Tensor, Tensor]:
        """Key and first counter for `words` random words, which no other draw will use."""
        key = self._key
        if key is None or key.number != self._seed:
            number = Counter.of(self, self._seed, is_key=True)
            key = self._key = Value.from_number(number, dtypes.uint64)
        first = Counter.of(self, self.offset & _MASK, is_key=False)
        self.offset += -(-words // 4)
        return Tensor._make(key), Tensor._make(Value.from_number(first, dtypes.uint64))


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator; the same draws in the same order then give the same numbers.

    >>> import avalon as av
    >>> _ = av.manual_seed(0)
    >>> a = av.rand(3)
    >>> _ = av.manual_seed(0)
    >>> bool((a == av.rand(3)).all())
    True
    """
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator from the operating system, and return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state."""
    return default_generator.get_state()


def set_rng_state(state: Tensor) -> None:
    """Put the default generator in a state that `get_rng_state` gave."""
    default_generator.set_state(state)


@contextmanager
def fork_rng(*arguments: Any, enabled: bool = True, **options: Any) -> Iterator[None]:
    """Put the default generator's state back at the end of a `with` block."""
    before = default_generator.clone_state()
    try:
        yield
    finally:
        if enabled:
            default_generator._seed = before._seed
            default_generator.offset = before.offset


def draw_seed(generator: Generator | None = None) -> int:
    """A 63-bit integer drawn at once, from which others (a data loader's order) can be seeded."""
    generator = generator or default_generator
    words = philox(np.uint64(generator._seed), np.array([generator.offset], np.uint64))
    generator.offset += 1
    low, high = (int(word) for word in words.reshape(-1)[:2])
    return (high << 32 | low) >> 1


# --- feeding draws from outside -----------------------------------------------------------------

_injected: ContextVar[Draws | None] = ContextVar("injected", default=None)


@contextmanager
def inject(source: Draws | Iterator[Any]) -> Iterator[None]:
    """Feed the draws that are recorded inside a `with` block from `source`, in their order.

    Args:
        source: a function of (kind, shape, dtype), or an iterator; it gives an array or tensor of
            that shape. Kinds are "uniform" in [0, 1), "normal" (mean 0, deviation 1), "integers",
            "bernoulli" (0 or 1; dropout: 1 keeps), "exponential" and "permutation".

    >>> import avalon as av
    >>> with av.random.inject(iter([[1.0, 2.0]])):
    ...     av.randn(2)
    tensor([1., 2.])
    """
    draws = source if callable(source) else lambda kind, shape, dtype: next(source)
    token = _injected.set(draws)
    try:
        yield
    finally:
        _injected.reset(token)


def injecting() -> bool:
    """True inside `inject`."""
    return _injected.get() is not None


def _fed(kind: str, shape: Shape, dtype: DType) -> Tensor | None:
    draws = _injected.get()
    if draws is None:
        return None
    fed = tensor(np.array(draws(kind, shape, dtype)), dtype=dtype)
    if tuple(fed.shape) != tuple(shape):
        raise ShapeError(
            f"[inject] a {kind} draw needs shape {tuple(shape)}, the source gave {tuple(fed.shape)}"
        )
    return fed


# --- draws --------------------------------------------------------------------------------------


def bits(shape: Shape, generator: Generator | None = None) -> Tensor:
    """Random uint32 words."""
    key, offset = (generator or default_generator).reserve(prod(shape))
    return source(ops.random_bits, key, offset, shape=tuple(shape))


def _halves(both: Tensor) -> list[Tensor]:
    """Two independent words per element (2, *shape), as float64."""
    shape = both.shape[1:]
    sizes = (1, *shape)
    halves = []
    for row in range(2):
        starts = (row,) + (0,) * len(shape)
        part = ops.slice(both, starts=starts, sizes=sizes, steps=(1,) * len(sizes))
        halves.append(ops.cast(ops.reshape(part, shape=shape), dtype=dtypes.float64))
    return halves


# How many random bits a number of each type takes; float64 is put together of two words.
_BITS = {dtypes.bfloat16: 8, dtypes.float16: 11, dtypes.float32: 24, dtypes.float64: 53}


def _words_of(shape: Shape, wide: DType) -> Shape:
    """The shape of the words that `_whole` makes numbers of: one for each number, two rows of them
    above 24 bits.
    """
    return (2, *shape) if _BITS[wide] > 24 else tuple(shape)


def _words(shape: Shape, wide: DType, generator: Generator | None) -> Tensor:
    """Words for numbers of this shape."""
    return bits(_words_of(shape, wide), generator)


def _whole(words: Tensor, count: int) -> Tensor:
    """Random whole numbers below 2**count, as float32, or float64 above 24 bits."""
    if count <= 24:
        return ops.cast(ops.shift_right(words, words.constant(32 - count)), dtype=dtypes.float32)
    low, high = _halves(words)
    fine = count - 27  # the coarse 27 bits come from one word, the others from the other
    coarse = ops.floor(high * high.constant(2.0**-5)) * high.constant(2.0**fine)
    return coarse + ops.floor(low * low.constant(2.0 ** (fine - 32)))


def _fraction(words: Tensor, dtype: DType) -> Tensor:
    """Multiples of 2**-bits in [0, 1)."""
    count = _BITS[dtype]
    whole = _whole(words, count)
    result = whole * whole.constant(2.0**-count)
    return result if result.dtype is dtype else ops.cast(result, dtype=dtype)


def _centred(words: Tensor, wide: DType) -> Tensor:
    """Odd multiples of 2**-bits in (-1, 1): symmetric, never 0, 1 or -1."""
    count = min(_BITS[wide], 52)
    whole = _whole(words, count)
    odd = whole + whole + whole.constant(1 - 2.0**count)
    return odd * odd.constant(2.0**-count)


def _wide(dtype: DType) -> DType:
    return dtypes.float64 if dtype is dtypes.float64 else dtypes.float32


# Each kind of draw is one entry: what follows from its words.


@composite
def _uniform(words: Tensor, dtype: DType) -> Tensor:
    return _fraction(words, dtype)


@composite
def _normal(words: Tensor, dtype: DType) -> Tensor:
    wide = _wide(dtype)
    centred = _centred(words, wide)
    result = ops.erfinv(centred) * centred.constant(2.0**0.5)
    return result if dtype is wide else ops.cast(result, dtype=dtype)


@composite
def _exponential(words: Tensor, dtype: DType) -> Tensor:
    wide = _wide(dtype)
    centred = _centred(words, wide)
    result = -ops.log((centred + centred.constant(1)) * centred.constant(0.5))
    return result if dtype is wide else ops.cast(result, dtype=dtype)


@composite
def _bernoulli(words: Tensor, threshold: Tensor, dtype: DType) -> Tensor:
    drawn = _fraction(words, _wide(dtype))
    return ops.cast(ops.less(drawn, ops.stop_gradient(threshold)), dtype=dtype)


def uniform(shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Numbers in [0, 1), every one of them equally likely."""
    fed = _fed("uniform", shape, dtype)
    return _uniform(_words(shape, dtype, generator), dtype) if fed is None else fed


def normal(shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Numbers of the normal distribution with mean 0 and deviation 1, by inversion."""
    fed = _fed("normal", shape, dtype)
    return _normal(_words(shape, _wide(dtype), generator), dtype) if fed is None else fed


def exponential(shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Numbers of the exponential distribution with rate 1; never 0."""
    fed = _fed("exponential", shape, dtype)
    return _exponential(_words(shape, _wide(dtype), generator), dtype) if fed is None else fed


def exponential_races(
    weights: Tensor, count: int, generator: Generator | None = None
) -> Tensor:
    """Where the `count` largest of weight / exponential draw are, along the last axis."""
    fed = _fed("exponential", weights.shape, weights.dtype)
    if fed is not None:
        return _largest(weights, fed, count)
    words = _words_of(weights.shape, _wide(weights.dtype))
    key, first = (generator or default_generator).reserve(prod(words))
    return _races(weights, key, first, count)


@composite
def _races(weights: Tensor, key: Tensor, first: Tensor, count: int) -> Tensor:
    words = _words_of(weights.shape, _wide(weights.dtype))
    drawn = source(ops.random_bits, key, first, shape=words)
    return _largest(weights, _exponential(drawn, weights.dtype), count)


@composite
def _largest(weights: Tensor, noise: Tensor, count: int) -> Tensor:
    return ops.argsort(weights / noise, axis=weights.ndim - 1, descending=True, count=count)


def integers(
    low: int, high: int, shape: Shape, dtype: DType, generator: Generator | None = None
) -> Tensor:
    """Whole numbers in [low, high)."""
    fed = _fed("integers", shape, dtype)
    if fed is not None:
        return fed
    if high - low <= 1 << 32:
        words = ops.cast(bits(shape, generator), dtype=dtypes.uint64)
        scaled = words * _filled(high - low, words)
        drawn = ops.shift_right(scaled, scaled.constant(32))
    else:
        low_word, high_word = (
            ops.cast(half, dtype=dtypes.uint64) for half in _halves(bits((2, *shape), generator))
        )
        words = ops.bit_or(ops.shift_left(high_word, high_word.constant(32)), low_word)
        drawn = ops.remainder(words, _filled(high - low, words))
    drawn = ops.cast(drawn, dtype=dtypes.int64)
    return ops.cast(drawn + _filled(low, drawn), dtype=dtype)


def _filled(number: int, like: Tensor) -> Tensor:
    return ops.broadcast(as_tensor(number, dtype=like.dtype), shape=like.shape)


def bernoulli(probability: Any, shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """1 with the given probability (a number or a tensor of `shape`), else 0."""
    fed = _fed("bernoulli", shape, dtype)
    if fed is not None:
        return fed
    wide = _wide(dtype)
    threshold = as_tensor(probability, dtype=wide)
    if tuple(threshold.shape) != tuple(shape):
        threshold = ops.broadcast(threshold, shape=tuple(shape))
    return _bernoulli(_words(shape, wide, generator), threshold, dtype)


def permutation(count: int, dtype: DType, generator: Generator | None = None) -> Tensor:
    """The numbers below `count` in random order."""
    fed = _fed("permutation", (count,), dtype)
    if fed is not None:
        return fed
    order = ops.argsort(bits((count,), generator), axis=0, descending=False, count=count)
    return order if dtype is dtypes.int64 else ops.cast(order, dtype=dtype)

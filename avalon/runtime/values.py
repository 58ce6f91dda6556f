"""What changes from call to call: the addresses and scalars that a program is handed.

Comes in: a plan; at each call buffers and numbers. Goes out: one table of 8-byte words, which the
driver spreads over the slots of the launches: the arena's address, the inputs' addresses, the
scalars' bits, the outputs' addresses. Guaranteed: a number arrives as its dtype holds it (floats
rounded once, integers wrapped), and what does not fit an input is refused by name.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from avalon import dtype
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Plan

Table = ctypes.Array[ctypes.c_char]

_FORMATS = {
    "bool": "?7x", "float16": "e6x", "float32": "f4x", "float64": "d", "uint32": "Q", "uint64": "Q",
}  # fmt: skip


class Values:
    """The order of the table, and the two ways of filling it.

    Attributes:
        count: number of words.
        buffers: positions of the inputs that are buffers; scalars: of those that are numbers.
        sizes: the bytes of each input buffer.
        of_buffer: the word that holds the address of a buffer, by the buffer's number.
        of_scalar: the word that holds a scalar, by its position among the inputs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        specs = list(enumerate(plan.inputs))
        self.buffers = [position for position, spec in specs if not spec.scalar]
        self.scalars = [position for position, spec in specs if spec.scalar]
        self.sizes = [plan.buffers[plan.inputs[i].buffer].nbytes for i in self.buffers]
        kinds = [plan.inputs[position].dtype for position in self.scalars]
        formats = "".join(_FORMATS.get(kind, "q") for kind in kinds)
        layout = f"<Q{'Q' * len(self.buffers)}{formats}{'Q' * len(plan.outputs)}"
        # struct has no format for bfloat16
        self.pack = _refuse if "bfloat16" in kinds else struct.Struct(layout).pack_into
        self.count = 1 + len(specs) + len(plan.outputs)
        self.of_buffer: dict[int, int] = {}
        for word, position in enumerate(self.buffers, 1):
            self.of_buffer.setdefault(plan.inputs[position].buffer, word)
        for word, number in enumerate(plan.outputs, 1 + len(specs)):
            if plan.buffers[number].role == "output":
                self.of_buffer.setdefault(number, word)
        first_scalar = 1 + len(self.buffers)
        self.of_scalar = {i: word for word, i in enumerate(self.scalars, first_scalar)}

    def write_carefully(
        self,
        table: Table,
        arena: Buffer,
        inputs: Sequence[Buffer | float],
        outputs: Sequence[Buffer],
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Fill the table where `pack` refuses: numbers beyond their type's range, bfloat16, errors.
        `sizes`: the bytes of the inputs, where the plan has formulas for them.

        Raises:
            ValueError: if the number of inputs is wrong, or a buffer is too small.
            TypeError: for a number in a buffer's place, or the reverse.
        """
        plan = self._plan
        if len(inputs) != len(plan.inputs):
            raise ValueError(
                f"[program] {plan.name} takes {len(plan.inputs)} inputs, got {len(inputs)}"
            )
        words = [arena.address]
        for position, nbytes in zip(self.buffers, sizes or self.sizes, strict=True):
            given = inputs[position]
            if not isinstance(given, Buffer):
                raise TypeError(
                    f"[program] input {position} of {plan.name} is a buffer, got {given!r}"
                )
            if given.nbytes < nbytes:
                spec = plan.inputs[position]
                raise ValueError(
                    f"[program] input {position} of {plan.name} is {spec.shape} of {spec.dtype} "
                    f"and needs {nbytes} bytes, got {given!r}"
                )
            words.append(given.address)
        for position in self.scalars:
            given = inputs[position]
            if isinstance(given, Buffer):
                raise TypeError(
                    f"[program] input {position} of {plan.name} is a number, got {given!r}"
                )
            words.append(scalar_bits(given, plan.inputs[position].dtype))
        words.extend(output.address for output in outputs)
        struct.pack_into(f"<{len(words)}Q", table, 0, *words)


def _refuse(*_: object) -> None:
    raise struct.error


def scalar_bits(number: float, dtype_name: str) -> int:
    """Return the word of a Python number: a float's bits at its own width, an integer wrapped to
    its width and sign-extended to 64 bits.

    >>> hex(scalar_bits(1.0, "float32")), hex(scalar_bits(-1, "uint8"))
    ('0x3f800000', '0xff')
    """
    kind = dtype.by_name(dtype_name)
    if kind is dtype.bool_:
        return int(bool(number))
    if kind is dtype.bfloat16:
        return _bfloat16_bits(float(number))
    if kind.is_floating_point:
        wide, narrow = {2: ("e", "H"), 4: ("f", "I"), 8: ("d", "Q")}[kind.itemsize]
        return _bits(wide, narrow, float(number))
    width = 8 * kind.itemsize
    wrapped = int(number) & ((1 << width) - 1)
    if kind.is_signed and wrapped >> (width - 1):
        wrapped -= 1 << width
    return wrapped & (2**64 - 1)


def _bfloat16_bits(number: float) -> int:
    if number != number:
        return 0x7FC0
    bits = _bits("f", "I", number)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _bits(wide: str, narrow: str, number: float) -> int:
    try:
        packed = struct.pack(f"<{wide}", number)
    except OverflowError:  # rounds to infinity
        packed = struct.pack(f"<{wide}", float("inf") if number > 0 else float("-inf"))
    return int(struct.unpack(f"<{narrow}", packed)[0])

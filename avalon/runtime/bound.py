"""A program bound to memory that stays where it is: the shortest way into it.

Comes in: a program, and what one call would be given. Goes out: a `Bound`, whose table is written;
a caller changes only the words of what is elsewhere in its call, and runs. Guaranteed: the same
launches and copies as `Program.run`, for programs none of whose outputs is a constant. The caller
keeps the memory alive, and lets one call at a time use it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

from avalon.runtime.buffer import Buffer
from avalon.runtime.driver_tables import PAUSED
from avalon.runtime.program import Program
from avalon.runtime.series import Series

_SMALL_ARENA = 1 << 16
_TIMED_EVERY = 32  # calls of a program that workers would not help


class Bound:
    """A filled-in table of a program.

    Attributes:
        words: the table; word 0 is the arena's address, which each run writes.
        copies: words of target and source, and bytes, of what is copied after the launches.
    """

    def __init__(
        self,
        program: Program,
        inputs: Sequence[Buffer | float],
        outputs: Sequence[Buffer],
        rewrites: bool = True,
    ) -> None:
        """`rewrites`: whether an output lies where something lay before that is still wanted."""
        values = program.values
        self._program = program
        self._frame = frame = program.new_frame()
        frame.write_over(rewrites)
        self._arena_bytes = frame.arena_bytes
        arena = Buffer.arena(frame.arena_bytes)
        # what is small is kept; large temporaries are shared with other programs
        self._arena = arena if frame.arena_bytes <= _SMALL_ARENA else None
        values.write_carefully(frame.table, arena, inputs, outputs)
        self._address = frame.address
        self._run_alone = program.driver.run_alone[0]
        self._untimed = 0
        self.words = memoryview(frame.table).cast("B").cast("Q")
        order = values.buffers + values.scalars
        self._of_input = {position: word for word, position in enumerate(order, 1)}
        self.copies = [
            (
                self.output_word(position),
                self._of_input[number] if kind == "input" else self.output_word(number),
                program.output_bytes[position],
            )
            for position, (kind, number) in program.copies
        ]

    def input_words(self, positions: Iterable[int]) -> tuple[int, ...]:
        """The words of some inputs."""
        return tuple(self._of_input[position] for position in positions)

    def output_word(self, position: int) -> int:
        """The word of an output."""
        return 1 + len(self._of_input) + position

    @property
    def nanoseconds(self) -> int:
        """What a call takes, about."""
        return self._program.nanoseconds(self._frame)

    def run_series(self, series: Series) -> None:
        """Run several times, with the words of the series; without copies.

        Raises:
            IndexOutOfRange: if a check of the program fails; the calls before were made.
        """
        assert not self.copies
        arena = self._arena or Buffer.arena(self._arena_bytes)
        self.words[0] = arena.address
        failed = self._program.launch_series(self._frame, series)
        if failed:
            raise self._program.failure(self._frame, failed)

    def run(self) -> None:
        """Run with the table as it is.

        Raises:
            IndexOutOfRange: if a check of the program fails.
        """
        if self._arena is None:
            arena = Buffer.arena(self._arena_bytes)
            self.words[0] = arena.address
        if self._untimed:
            self._untimed -= 1
            try:
                failed = self._run_alone(self._address)
            except BaseException as interruption:
                failed = self._program.interrupted(self._frame, interruption)
            if failed == PAUSED:
                failed = self._program.go_on(self._frame)
        else:
            if self._program.is_short(self._frame):
                self._untimed = _TIMED_EVERY
            failed = self._program.launch(self._frame)
        if failed:
            raise self._program.failure(self._frame, failed)
        for target, source, nbytes in self.copies:
            ctypes.memmove(self.words[target], self.words[source], nbytes)

"""Interrupts: what handlers of signals raise while a program runs, such as ctrl-C's.

Comes in: an exception that was raised as a native call returned whose work is complete. Goes out:
the same exception, once whoever asked for the work has taken it over. Guaranteed: it is neither
lost nor raised half way between: memory that was written over belongs to values that know it.

A native call that has to go on returns now and then, so that Python runs the handlers. What is
raised then ends the run, as if it had not been begun: no memory that was there before has been
written yet, for from there on there are no such pauses.
"""

from __future__ import annotations

late: list[BaseException] = []


def raise_late() -> None:
    """Raise what came too late to end a run; call it when the run's results are taken over. The
    next run does so at the latest.
    """
    if late:
        raise late.pop(0)

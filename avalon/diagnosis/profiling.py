"""`profile`: where the time of a step goes, kernel by kernel, in the names of the user's program.

Comes in: a function or compiled step, and arguments. Goes out: a `runtime.profile.Profile`.
Guaranteed: models, gradients, optimizers and random generators stay as they were; the kernels are
those of the step's own program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avalon.codegen import rates as rates  # what profiles measure the limits with
from avalon.compiler import compile_graph
from avalon.diagnosis.recorded_step import record
from avalon.runtime.profile import Profile
from avalon.tracing.modes import modes


def profile(function: Callable[..., Any], *arguments: Any, **named: Any) -> Profile:
    """Time a step's kernels, one by one; print the result to see where time goes.

    The table says for each kernel its time on one thread, GFLOP/s, GB/s (each buffer counted once,
    so caches may give more than memory), the part of this machine's measured limit that it reaches,
    what it computes, and the layers and lines that it comes from. Above it stand the sum of all
    kernels on one thread and the time of a whole call on all.

    Args:
        function: what you would give to `av.compile`, compiled or not; it asks for no value.
        arguments: of one call. Nothing of them changes.

    Returns:
        A profile: `print` it, look at its `timings`, or write `trace("step.json")`.

    Raises:
        TraceError: the function asks for the value of a tensor.

    >>> import avalon as av
    >>> found = av.profile(lambda x: av.tanh(x).sum(), av.ones(100))
    >>> len(found.timings), found.timings[0].seconds > 0
    (1, True)
    """
    outer, modes.layers = modes.layers, True
    try:
        recorded = record("profile", function, arguments, named)
    finally:
        modes.layers = outer
    recorded.graph.name = getattr(function, "__name__", "step").replace("<lambda>", "function")
    return compile_graph(recorded.graph, "hot").profile(recorded.feeds)

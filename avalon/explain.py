"""`explain`: which programs exist, why they were built, and what that cost.

Comes in: nothing. Goes out: a text for people, one line a program and one a compiled step.
"""

from __future__ import annotations

from avalon.replay.step import report
from avalon.tracing import execute


def explain() -> str:
    """Which programs exist, how often each was seen, why each build was made and how long it
    took, and how compiled steps fared.

    >>> import avalon as av
    >>> (av.ones(2) + 1).tolist()
    [2.0, 2.0]
    >>> "cold: first sight" in av.explain()
    True
    """
    return "\n".join(["programs:", *execute.report(), "compiled steps:", *report()])

"""Steps that replay: `compile` turns a Python function into one native program that is never stale.

`snapshot` says what a step can see, `recording` what one call of it did, `step` replays what two
recordings agreed on.
"""

from avalon.replay.step import CompiledStep, compile

__all__ = ["CompiledStep", "compile"]

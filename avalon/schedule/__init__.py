"""From a graph to loop nests: what is stored, what shares a kernel, in which order things are
added.

`calls` schedules call by call (plain and cold tier), `hot` fuses. Both ask `pull` what a value is
at given coordinates, in the arithmetic of `index`, and hand over the `loops` that code is generated
from.
"""

from avalon.schedule import (
    pull_movement as pull_movement,
    pull_products as pull_products,
    pull_values as pull_values,
)

"""Which switches are at fault: the fewest names whose absence makes a wrong program right.

Comes in: suspects by name, and a question: does it agree without these? Goes out: the names.
Guaranteed: about log2(n) questions for each name that is found; without the names the program
agrees, and with any one of them back it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def find_culprits(
    suspects: Sequence[str], agrees_without: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """The names at fault; None if it is wrong without all of them.

    >>> find_culprits(["a", "b", "c", "d"], lambda names: {"b", "d"} <= set(names))
    ['d', 'b']
    >>> find_culprits(["a", "b"], lambda names: False)
    """
    if not agrees_without(suspects):
        return None
    found: list[str] = []
    while suspects and not agrees_without(found):
        few, enough = 0, len(suspects)  # of the front of the list: too few, and enough
        while enough - few > 1:
            middle = (few + enough) // 2
            if agrees_without([*found, *suspects[:middle]]):
                enough = middle
            else:
                few = middle
        found.append(suspects[few])
        suspects = suspects[:few]
    return found

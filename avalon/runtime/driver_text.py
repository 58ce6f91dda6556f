"""Lines of LLVM text that all parts of the native driver are written with.

Comes in: names of values, and numbers of words in a record (`driver_tables`). Goes out: text.
Guaranteed: `at` defines `%NAME`, and `get` `%NAME` and the address that it came from, `%NAME.at`.
"""

from __future__ import annotations


def function(head: str, body: str) -> str:
    """Return the definition of a function whose body starts at the block `entry`."""
    return f"define {head} nounwind {{\nentry:\n{body}}}\n"


def at(name: str, base: str, word: int | str) -> str:
    """Return the line that makes `%name` the address of a word of the record at `base`."""
    return f"  %{name} = getelementptr i64, ptr {base}, i64 {word}"


def get(name: str, base: str, word: int | str, kind: str = "i64") -> str:
    """Return the lines that load a word of the record at `base` into `%name`."""
    return f"{at(name + '.at', base, word)}\n  %{name} = load {kind}, ptr %{name}.at"

"""Lines of LLVM text that all parts of the native driver are written with.

Comes in: names of values, and numbers of words in a record (`driver_tables`). Goes out: text.
Guaranteed: `at` defines `%NAME`, and `get` `%NAME` and the address that it came from, `%NAME.at`;
the blocks of `repeat` start with the one it is named for.
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


def repeat(block: str, index: str, count: str, before: str, after: str, body: str) -> str:
    """Return the blocks that run `body` for `%index` from 0 up to, without, `count`.

    They are entered at `block` from the block `before`, and left for the block `after`.
    """
    return f"""{block}:
  %{index} = phi i64 [ 0, %{before} ], [ %{index}.next, %{block}.one ]
  %{index}.more = icmp slt i64 %{index}, {count}
  br i1 %{index}.more, label %{block}.one, label %{after}
{block}.one:
{body}
  %{index}.next = add i64 %{index}, 1
  br label %{block}"""

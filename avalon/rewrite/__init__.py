"""Rewriting, graph to graph: rules that keep every bit, equal calls merged, dead calls dropped."""

from avalon.rewrite import algebra, constants, masks
from avalon.rewrite.apply import apply_rules as apply_rules
from avalon.rewrite.common_subexpressions import (
    merge_common_subexpressions as merge_common_subexpressions,
)
from avalon.rewrite.dead_code import remove_dead_code as remove_dead_code
from avalon.rewrite.pattern import Rule as Rule, rule as rule

RULES = (*constants.RULES, *algebra.RULES, *masks.RULES)
"""Every rule of the library, in the order in which they are tried."""

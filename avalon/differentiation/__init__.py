"""Differentiation: the traced rules of single calls, their sums, and whole graphs in reverse mode.

Users meet it as `tensor.backward()`, `av.grad` and `av.autograd`, which walk the histories of
tensors by the same rules; for graphs made by hand there is `gradients`.
"""

from avalon.differentiation.accumulate import Parts as Parts, accumulate as accumulate
from avalon.differentiation.loops import (
    differentiated as differentiated,
    scan_gradient as scan_gradient,
)
from avalon.differentiation.reverse import describe as describe, gradients as gradients
from avalon.differentiation.rules import Gradient as Gradient, gradient_of as gradient_of

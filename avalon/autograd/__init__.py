"""Gradients, graph to graph."""

from avalon.autograd.accumulate import accumulate as accumulate
from avalon.autograd.backward import describe as describe, gradients as gradients
from avalon.autograd.reads import Reads as Reads, reads as reads

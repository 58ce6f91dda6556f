"""Graphs: nodes, primitives, the verbs that edit, and what reads a whole graph."""

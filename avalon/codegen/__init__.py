"""Kernels as LLVM text.

`emit` writes one function's text, from `values`, `builder` and the modules of arithmetic
(`math_functions`, `trigonometry`, `powers`, `special_functions`, `integers`, `conversion`).
`target` says what a machine can do, `verify` refuses what it cannot. `loops` turns the scheduler's
nests into kernels, `contraction` products and convolutions, `libraries` what neither covers;
`assemble` puts a program's kernels together into a plan.
"""

"""Gradients of gradients against PyTorch, for functions with a gradient of their own and others."""

import warnings

import numpy as np
import pytest
import torch

import avalon
from tests.parity.harness import COUNTS, INPUTS, NAMES, lines

FUNCTIONS = lines("""
    T.sigmoid(r)
    F.logsigmoid(r)
    F.softplus(r)
    F.gelu(r)
    F.silu(r)
    F.mish(r)
    F.hardtanh(r) * r
    T.clamp(r, -0.5, 0.7) * r
    F.elu(r)
    F.softmax(r, 1)
    F.log_softmax(r, 1)
    T.logsumexp(r, 1)
    T.sinh(r)
    T.cosh(r)
    T.tan(u)
    T.asin(u)
    T.acos(u)
    T.atan(r)
    T.atanh(u)
    T.asinh(r)
    T.acosh(p + 1)
    T.xlogy(r, p)
    T.fmod(r, p)
    T.hypot(r, p)
    T.logaddexp(r, q)
    T.norm(r)
    T.std(r, 1)
    T.prod(p, 1)
    T.cumprod(p, 1)
    T.max(r, 1).values ** 2
    F.layer_norm(r, (5,))
    F.batch_norm(r, None, None, training=True)
    F.cross_entropy(r, T.tensor([0, 4, 2]))
    F.binary_cross_entropy(prob, u.abs())
    F.binary_cross_entropy_with_logits(r, prob)
    F.conv2d(im, k2, stride=2, padding=1)
    F.conv_transpose1d(sig, kt1, stride=2)
    F.max_pool2d(im, 2) ** 2
    F.avg_pool2d(im, 3, stride=2, padding=1) ** 2
    T.matmul(bm, bm2) ** 2
    T.einsum("ij,jk->ik", m, m2) ** 2
    r[1:, ::2] ** 3
    T.where(b, r, q) ** 3
""")


def second_order(expression, library, autograd):
    scope = {"T": library, "F": library.nn.functional}
    leaves = {}
    for name in sorted(set(NAMES.findall(expression))):
        leaves[name] = library.tensor(INPUTS[name])
        if INPUTS[name].dtype.kind == "f":
            leaves[name].requires_grad_()
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    output = eval(expression, scope, leaves)
    first = autograd.grad((output * output).sum(), list(wanted.values()), create_graph=True)
    total = sum((slope * slope).sum() for slope in first)
    second = autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {
        name: None if slope is None else slope.detach().numpy()
        for name, slope in zip(wanted, second, strict=True)
    }


@pytest.mark.parametrize("expression", FUNCTIONS)
def test_second_order(expression):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = second_order(expression, torch, torch.autograd)
        found = second_order(expression, avalon, avalon.autograd)
    for name, slope in expected.items():
        other = np.zeros_like(slope) if found[name] is None else found[name]
        np.testing.assert_allclose(other, slope, rtol=1e-7, atol=1e-8, err_msg=name)
    COUNTS["second order: cases"] += 1

"""Functions of 16-bit floats are as accurate as PyTorch's: computed in float32, rounded once."""

import numpy as np
import pytest
import torch

import avalon as av
import avalon.nn.functional

EXPRESSIONS = [
    "F.softmax(x, 1)",
    "F.log_softmax(x * 4, 1)",
    "F.layer_norm(x * 900, (64,))",
    "F.rms_norm(x * 900, (64,))",
    "F.group_norm(x.reshape(2, 4, 32), 2)",
    "F.batch_norm(x, None, None, training=True)",
    "F.gelu(x)",
    "F.silu(x)",
    "F.mish(x)",
    "F.softplus(x)",
    "F.logsigmoid(x)",
    "F.elu(x)",
    "T.sigmoid(x)",
    "T.mean(x * 900)",
    "T.std(x * 900, 1)",
    "T.logsumexp(x, 1)",
    "T.norm(x * 90)",
    "F.mse_loss(x, x.flip(0))",
    "F.cross_entropy(x, labels)",
    "F.binary_cross_entropy_with_logits(x, T.sigmoid(x))",
    "F.relu(x.clone(), inplace=True)",
    "x @ x.T",
    "x.sum(1)",
]


def rounded(array, name):
    """The array with its floats rounded to a 16-bit type."""
    tensor = torch.tensor(array)
    return tensor.to(getattr(torch, name)) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_accurate_as_pytorch(expression, name):
    data = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)

    def run(library, dtype, make):
        x = make(data).to(dtype)
        labels = make(np.array([1, 5, 63, 0]))
        scope = {"T": library, "F": library.nn.functional, "x": x, "labels": labels}
        return eval(expression, scope)

    exact = run(torch, torch.float64, lambda a: rounded(a, name)).numpy()
    theirs = run(torch, getattr(torch, name), torch.tensor)
    ours = run(av, getattr(av, name), av.tensor)
    assert ours.dtype is getattr(av, name)
    assert str(theirs.dtype) == f"torch.{name}"
    scale = np.abs(exact) + 0.01
    error = np.max(np.abs(ours.double().numpy() - exact) / scale)
    limit = np.max(np.abs(theirs.double().numpy() - exact) / scale)
    assert error <= 1.5 * limit + 1e-4

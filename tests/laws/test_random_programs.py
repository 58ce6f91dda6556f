"""Law: programs put together at random have PyTorch's values and gradients for every size that
comes back. Nothing among them depends on how ties are broken.
"""

import numpy as np
import pytest
import torch

import avalon as av

SIZES = [1, 2, 3, 5, 8, 17]
ONE = {  # functions of the library and a tensor
    "sum": lambda L, x: x.sum(-1, keepdim=True),
    "mean": lambda L, x: x.mean(0),
    "centred": lambda L, x: x - x.mean(),
    "amax": lambda L, x: x.amax(-1),
    "softmax": lambda L, x: x.softmax(-1),
    "log_softmax": lambda L, x: x.log_softmax(0),
    "logsumexp": lambda L, x: x.logsumexp(-1, keepdim=True),
    "var": lambda L, x: x.var(-1, correction=0),
    "layer_norm": lambda L, x: L.nn.functional.layer_norm(x, (x.shape[-1],), eps=0.1),
    "cumsum": lambda L, x: x.cumsum(0) * 0.3,
    "prod": lambda L, x: (x * 0.1 + 1).prod(-1),
    "tanh": lambda L, x: x.tanh(),
    "gelu": lambda L, x: L.nn.functional.gelu(x),
    "relu": lambda L, x: L.relu(x),
    "clamp": lambda L, x: x.clamp(-0.5, 0.7),
    "masked": lambda L, x: x.masked_fill(x > 0.3, 2.0),
    "transpose": lambda L, x: x.transpose(0, -1),
    "contiguous": lambda L, x: x.transpose(-1, -2).contiguous(),
    "reshape": lambda L, x: x.reshape(x.shape[0], -1),
    "flatten": lambda L, x: x.flatten(),
    "flip": lambda L, x: x.flip(0),
    "roll": lambda L, x: x.roll(2, -1),
    "slice": lambda L, x: x[1::2],
    "select": lambda L, x: x.select(-1, -1),
    "rows": lambda L, x: x[[0, 0, -1]],
    "split": lambda L, x: L.split(x, 2, -1)[-1],
    "pad": lambda L, x: L.nn.functional.pad(x, (1, 2)),
    "repeat": lambda L, x: x.repeat_interleave(2, 0),
    "tril": lambda L, x: x.tril(-1),
    "diagonal": lambda L, x: x.diagonal(0, -1, -2),
    "unfold": lambda L, x: x.unfold(-1, 2, 1),
    "squared": lambda L, x: L.matmul(x, x.transpose(-1, -2)) * 0.3,
    "outer": lambda L, x: x.unsqueeze(-1) * x.unsqueeze(-2) * 0.3,
    "attention": lambda L, x: L.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "conv1d": lambda L, x: L.nn.functional.conv1d(
        x.flatten(1).unsqueeze(1), L.full((2, 1, 3), 0.3, dtype=x.dtype), stride=2, padding=1
    ),
    "max_pool2d": lambda L, x: L.nn.functional.max_pool2d(x.reshape(1, 1, -1, x.shape[-1]), 2, 1),
    "avg_pool1d": lambda L, x: L.nn.functional.avg_pool1d(x, 2, 2, padding=1),
    "in place": lambda L, x: doubled_rows(x.clone()),
}
TWO = {
    "add": lambda L, x, y: x + y,
    "multiply": lambda L, x, y: x * y,
    "divide": lambda L, x, y: x / (y.abs() + 1),
    "where": lambda L, x, y: L.where(x > 0.1, x, y * 2),
    "matmul": lambda L, x, y: L.matmul(x, y.transpose(-1, -2)) * 0.3,
    "cat": lambda L, x, y: L.cat([x, y * 2, x], 0),
    "stack": lambda L, x, y: L.stack([x, y], -1),
    "distances": lambda L, x, y: ((x.unsqueeze(-2) - y.unsqueeze(-3)) ** 2).sum(-1),
}


def doubled_rows(x):
    x[::2] *= 2
    return x


def made(L, program, leaves):
    """Every value of a program, the leaves among them."""
    found = list(leaves)
    for function, places in program:
        found.append(function(L, *[found[place] for place in places]))
    return found


def weighted(values, weights):
    return sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))


class Case:
    """A program of six operations, what is given to it for each size, and what PyTorch
    makes of it.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        kinds = [("B", 4), ("B", "T"), ("B", "T", 3), (2, "B", "T")]
        kind = kinds[self.rng.integers(len(kinds))]
        sizes = [dict(zip("BT", self.rng.choice(SIZES, 2).tolist(), strict=True)) for _ in range(3)]
        shapes = [[size.get(extent, extent) for extent in kind] for size in sizes]
        self.leaves = [[self.rng.standard_normal(shape) for _ in range(2)] for shape in shapes]
        self.program, self.names = [], []
        values = [[torch.tensor(x, requires_grad=True) for x in pair] for pair in self.leaves]
        leaves = [pair[:] for pair in values]
        while len(self.program) < 6:
            self._grow(values)
        read = {place for _, places in self.program for place in places}
        self.ends = [place for place in range(len(values[0])) if place not in read]
        found = [[known[place] for place in self.ends] for known in values]
        self.weights = [[self.rng.standard_normal(tuple(x.shape)) for x in ends] for ends in found]
        self.expected = []
        for pair, ends, weights in zip(leaves, found, self.weights, strict=True):
            loss = weighted(ends, map(torch.tensor, weights))
            gradients = torch.autograd.grad(loss, pair, materialize_grads=True)
            self.expected.append([x.detach().numpy() for x in (*ends, *gradients)])

    def _grow(self, values):
        """Append an operation if PyTorch takes it for every size."""
        functions = ONE if self.rng.random() < 0.6 else TWO
        name = self.rng.choice(list(functions)).item()
        count, known = 1 if functions is ONE else 2, len(values[0])
        places = self.rng.integers(max(0, known - 4), known, count).tolist()
        try:
            results = [
                functions[name](torch, *[known[place] for place in places]) for known in values
            ]
        except (RuntimeError, IndexError, ValueError):
            return
        if all(0 < x.numel() < 20000 and x.abs().max() < 1e3 for x in results):
            self.program.append((functions[name], places))
            self.names.append((name, places))
            for known, result in zip(values, results, strict=True):
                known.append(result)

    def step(self, *given):
        """Ends and gradients, for two leaves and the weights of the ends."""
        leaves = [x.detach().requires_grad_() for x in given[:2]]
        found = made(av, self.program, leaves)
        ends = [found[place] for place in self.ends]
        weighted(ends, given[2:]).backward()
        return [*ends, *[av.zeros_like(x) if x.grad is None else x.grad for x in leaves]]


@pytest.mark.parametrize("seed", range(12))
def test_sizes_that_come_back(seed):
    compiled, case = seed % 2 == 1, Case(seed)
    step = av.compile(case.step) if compiled else case.step
    for number in (0, 1, 2, 1, 0, 2):
        found = step(*map(av.tensor, [*case.leaves[number], *case.weights[number]]))
        for one, other in zip(found, case.expected[number], strict=True):
            message = f"size {number} of {case.names}"
            np.testing.assert_allclose(
                one.detach().numpy(), other, rtol=1e-9, atol=1e-9, err_msg=message
            )

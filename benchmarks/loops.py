"""Unchanged loops, as users of PyTorch write them: nothing is decorated or compiled by hand.

Comes in: a library, `torch` or `avalon`. Goes out: a function that runs some steps of a loop. Each
loop is written once and serves both, for all it needs is PyTorch's names. The loops are those that
a compiler finds hard: shapes that change, numbers read in mid-step, one row at a time.

`python -m benchmarks.loops [NAME ...]` measures the loops whose names contain a NAME.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import avalon as av
from benchmarks import heap, measure

Run = Callable[[], Any]
STEPS = 16  # of a loop, in one call


def _floats(lib: Any, *shape: int, seed: int = 0) -> Any:
    return lib.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _integers(lib: Any, high: int, *shape: int) -> Any:
    return lib.tensor(np.random.default_rng(1).integers(0, high, shape))


def _mlp(lib: Any, *widths: int) -> Any:
    layers: list[Any] = []
    for before, after in pairwise(widths):
        layers += [lib.nn.Linear(before, after), lib.nn.ReLU()]
    return lib.nn.Sequential(*layers[:-1])


def _cnn(lib: Any) -> Any:
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip


def mlp_step(lib: Any, width: int) -> Run:
    """A step of a network with two hidden layers on one batch of 64, with Adam."""
    net = _mlp(lib, 4, width, width, 2)
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)
    x, y = _floats(lib, 64, 4), _integers(lib, 2, 64)

    def step() -> None:
        optimizer.zero_grad()
        loss = lib.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def mlp(lib: Any) -> Run:
    """MLP 4-64-64-2 on one batch."""
    return mlp_step(lib, 64)


def minibatches(lib: Any) -> Run:
    """The same network on minibatches cut from one tensor."""
    net = _mlp(lib, 4, 64, 64, 2)
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)
    rows, labels = _floats(lib, 64 * STEPS, 4), _integers(lib, 2, 64 * STEPS)

    def run() -> None:
        for start in range(0, len(rows), 64):
            x, y = rows[start : start + 64], labels[start : start + 64]
            optimizer.zero_grad()
            loss = lib.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def policy_gradient(lib: Any) -> Run:
    """REINFORCE: one observation at a time, an action drawn and read each step, then an update."""
    net = _mlp(lib, 4, 64, 2)
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)
    generator = np.random.default_rng(0)

    def run() -> None:
        chosen, rewards = [], []
        observation = generator.normal(size=4).astype(np.float32)
        for _ in range(STEPS):
            logs = lib.nn.functional.log_softmax(net(lib.from_numpy(observation)[None]), dim=1)
            action = lib.multinomial(logs.detach().exp(), 1).item()
            chosen.append(logs[0, action])
            observation = 0.9 * observation + np.float32(action - 0.5)
            rewards.append(float(1 - abs(observation[0])))
        returns = lib.tensor(np.cumsum(rewards[::-1])[::-1].astype(np.float32))
        loss = -(lib.stack(chosen) * (returns - returns.mean())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def lstm_lengths(lib: Any) -> Run:
    """An LSTM trained on batches of 16 sequences whose length changes from batch to batch."""
    network = lib.nn.LSTM(32, 64, batch_first=True)
    head = lib.nn.Linear(64, 5)
    optimizer = lib.optim.Adam([*network.parameters(), *head.parameters()], lr=1e-3)
    lengths = np.random.default_rng(0).permutation(np.arange(8, 72))
    batches = [(_floats(lib, 16, int(n), 32), _integers(lib, 5, 16)) for n in lengths]
    position = [0]

    def run() -> None:
        for _ in range(STEPS):
            x, y = batches[position[0] % len(batches)]
            position[0] += 1
            optimizer.zero_grad()
            loss = lib.nn.functional.cross_entropy(head(network(x)[0][:, -1]), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def _block(lib: Any, width: int, heads: int) -> Any:
    """A block of a GPT, with attention to what came before."""
    nn, functional = lib.nn, lib.nn.functional

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.LayerNorm(width)
            self.mix = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.after = nn.LayerNorm(width)
            self.up = nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            parts = self.mix(self.before(x)).split(width, dim=2)
            q, k, v = (
                part.view(batch, length, heads, width // heads).transpose(1, 2) for part in parts
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.down(functional.gelu(self.up(self.after(x))))

    return Block()


def gpt_generating(lib: Any) -> Run:
    """A GPT of 4 layers of 128 writes 64 characters; the whole context is read for each."""
    width, letters, context = 128, 65, 64
    nn = lib.nn
    letter, place = nn.Embedding(letters, width), nn.Embedding(context, width)
    blocks = nn.Sequential(*(_block(lib, width, 4) for _ in range(4)))
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, letters))

    def run() -> None:
        with lib.no_grad():
            text = lib.zeros((1, 1), dtype=lib.long)
            while text.shape[1] < context:
                x = letter(text) + place(lib.arange(text.shape[1]))
                logits = head(blocks(x))[:, -1]
                following = lib.multinomial(logits.softmax(dim=-1), 1)
                text = lib.cat([text, following], dim=1)
            text.tolist()

    return run


def cnn_step(lib: Any, batch: int = 100, early: bool = False, optimizers: int = 1) -> Run:
    """A step of the CNN; `early` reads the loss before the backward pass."""
    net = _cnn(lib)
    parameters = list(net.parameters())
    owners = [lib.optim.Adam(parameters[one::optimizers], lr=1e-3) for one in range(optimizers)]
    x, y = _floats(lib, batch, 1, 28, 28), _integers(lib, 10, batch)

    def step() -> None:
        for owner in owners:
            owner.zero_grad()
        loss = lib.nn.functional.nll_loss(net(x), y)
        if early:
            loss.item()
        loss.backward()
        for owner in owners:
            owner.step()
        loss.item()

    return step


# Those beside the table of the design come first; each must be as fast as PyTorch's.
LOOPS: dict[str, Callable[[Any], Run]] = {
    "GPT generating with a growing context": gpt_generating,
    "LSTM on batches of changing length": lstm_lengths,
    "policy gradient, one row at a time": policy_gradient,
    "minibatches cut by X[i:i+64]": minibatches,
    "CNN, .item() before .backward()": lambda lib: cnn_step(lib, early=True),
    "CNN, .item() after": cnn_step,
    "CNN, two optimizers": lambda lib: cnn_step(lib, optimizers=2),
    "MLP 4-64-64-2": mlp,
}


def sides(name: str) -> dict[str, Run]:
    """A loop's two sides, and a step of the CNN given to `av.compile` beside the CNN's."""
    build = LOOPS[name]
    found = {"avalon": build(av), "torch": build(torch)}
    if name.startswith("CNN"):
        found["compiled"] = _compiled_cnn()
    return found


def _compiled_cnn() -> Run:
    net = _cnn(av)
    optimizer = av.optim.Adam(net.parameters(), lr=1e-3)
    x, y = _floats(av, 100, 1, 28, 28), _integers(av, 10, 100)

    def step(x: av.Tensor, y: av.Tensor) -> av.Tensor:
        optimizer.zero_grad()
        loss = av.nn.functional.nll_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    compiled = av.compile(step)
    return lambda: compiled(x, y).item()


def main(names: Sequence[str]) -> None:
    """Print the loops whose names contain one of `names`; all without any."""
    for name in LOOPS:
        if names and not any(part in name for part in names):
            continue
        turns = measure.take_turns(sides(name), 5, 0.5)
        cells = "".join(f"{side:>12} {1e3 * measure.middle(t):8.2f}" for side, t in turns.items())
        print(f"{name:<40}{cells}   ratio {measure.ratio(turns):.2f}", flush=True)


if __name__ == "__main__":
    heap.settle("benchmarks.loops")
    main(sys.argv[1:])

"""The character model of the benchmark, written once for each library.

A GPT of 4 pre-norm blocks of width 128 with 4 heads, context 64, vocabulary 65, learned positions,
exact GELU, no dropout, a head without bias; a batch of 12 sequences; cross entropy of the next
character; AdamW with PyTorch's defaults (weight decay 0.01). It predicts the logits of the batch.

Comes in: the weights and the batch, as NumPy arrays. Goes out: a `Contest` (see contest.py).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import avalon as av
from benchmarks.contest import (
    Arrays,
    Competitor,
    Contest,
    avalon_competitor,
    competitors,
    jax_adam,
    jax_competitor,
    jax_predictor,
    torch_competitor,
)
from benchmarks.nets import GPT, gpt_step

BATCH, CONTEXT, VOCABULARY = 12, 64, 65
WIDTH, HEADS, DEPTH = 128, 4, 4
LR, DECAY = 1e-3, 0.01


def contest() -> Contest:
    """The competitors, each with a training step that returns the loss and a prediction."""
    generator = np.random.default_rng(0)
    weights = _weights(generator)
    text = generator.integers(0, VOCABULARY, (BATCH, CONTEXT + 1))
    x, y = text[:, :-1].copy(), text[:, 1:].copy()
    return Contest(
        "GPT 4 x 128, context 64, batch 12",
        competitors(
            lambda compiled: _avalon(weights, x, y, compiled),
            lambda compiled: _torch(weights, x, y, compiled),
            _jax(weights, x, y),
        ),
    )


def _avalon(weights: Arrays, tokens: Any, following: Any, compiled: bool) -> Competitor:
    model = GPT(VOCABULARY, CONTEXT, WIDTH, HEADS, DEPTH)
    av.load_state_dict(model, {name: av.tensor(value) for name, value in weights.items()})
    optimizer = av.optim.AdamW(av.parameters(model), lr=LR, weight_decay=DECAY)
    step = gpt_step(model, optimizer)
    return avalon_competitor(step, model, (tokens, following), tokens, compiled)


def _torch(weights: Arrays, tokens: Any, following: Any, compiled: bool) -> Competitor:
    layers, functional = torch.nn, torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = layers.LayerNorm(WIDTH), layers.LayerNorm(WIDTH)
            self.qkv, self.project = layers.Linear(WIDTH, 3 * WIDTH), layers.Linear(WIDTH, WIDTH)
            self.widen = layers.Linear(WIDTH, 4 * WIDTH)
            self.narrow = layers.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            parts = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
            return x + self.narrow(functional.gelu(self.widen(self.norm2(x))))

    class TorchGPT(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = layers.Embedding(VOCABULARY, WIDTH)
            self.position = layers.Embedding(CONTEXT, WIDTH)
            self.blocks = layers.ModuleList(Block() for _ in range(DEPTH))
            self.norm = layers.LayerNorm(WIDTH)
            self.head = layers.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    model = TorchGPT()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    if compiled:
        model = torch.compile(model)

    def loss_of(x: Any, y: Any) -> Any:
        return functional.cross_entropy(model(x).view(-1, VOCABULARY), y.view(-1))

    return torch_competitor(optimizer, loss_of, model, (tokens, following), tokens)


def _jax(weights: Arrays, tokens: Any, following: Any) -> Competitor:
    causal = np.tril(np.ones((CONTEXT, CONTEXT), bool))

    def linear(p: Arrays, name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(p: Arrays, name: str, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def block(p: Arrays, name: str, x: Any) -> Any:
        parts = linear(p, f"{name}.qkv", norm(p, f"{name}.norm1", x))
        parts = parts.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.transpose(2, 0, 3, 1, 4)
        scores = (q @ k.swapaxes(-2, -1)) / math.sqrt(WIDTH // HEADS)
        mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ v
        x = x + linear(p, f"{name}.project", mixed.swapaxes(1, 2).reshape(x.shape))
        wide = linear(p, f"{name}.widen", norm(p, f"{name}.norm2", x))
        return x + linear(p, f"{name}.narrow", jax.nn.gelu(wide, approximate=False))

    def forward(p: Arrays, tokens: Any) -> Any:
        x = p["token.weight"][tokens] + p["position.weight"]
        for index in range(DEPTH):
            x = block(p, f"blocks.{index}", x)
        return norm(p, "norm", x) @ p["head.weight"].T

    def loss_of(p: Arrays, x: Any, y: Any) -> Any:
        logits = jax.nn.log_softmax(forward(p, x))
        return -jnp.take_along_axis(logits, y[..., None], -1).mean()

    def step(p: Arrays, state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(p, x, y)
        p = jax.tree.map(lambda w: w * (1 - LR * DECAY), p)
        return loss, *jax_adam(p, state, gradients, LR)

    predict = jax_predictor(forward, tokens)
    return jax_competitor(step, predict, weights, (tokens, following))


def _weights(generator: np.random.Generator) -> Arrays:
    weights: Arrays = {
        "token.weight": generator.normal(0, 0.02, (VOCABULARY, WIDTH)),
        "position.weight": generator.normal(0, 0.02, (CONTEXT, WIDTH)),
        "head.weight": generator.normal(0, 0.02, (VOCABULARY, WIDTH)),
    }
    for index in range(DEPTH):
        name = f"blocks.{index}"
        for part, rows, columns in (
            ("qkv", 3 * WIDTH, WIDTH),
            ("project", WIDTH, WIDTH),
            ("widen", 4 * WIDTH, WIDTH),
            ("narrow", WIDTH, 4 * WIDTH),
        ):
            weights[f"{name}.{part}.weight"] = generator.normal(0, 0.02, (rows, columns))
            weights[f"{name}.{part}.bias"] = np.zeros(rows)
    for name in ("norm", *(f"blocks.{i}.norm{j}" for i in range(DEPTH) for j in (1, 2))):
        weights[f"{name}.weight"] = np.ones(WIDTH)
        weights[f"{name}.bias"] = np.zeros(WIDTH)
    return {name: value.astype(np.float32) for name, value in weights.items()}

"""The table: small and middle-sized models, training and predicting, beside every peer.

Comes in: nothing. Goes out: the lines by title. A line is a contest's training step or prediction;
`asked` is how many times as fast as the best peer of the run Avalon has to be: the ratio of the
times that the project set itself, from a measurement of the peers before it began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import cnn, gpt, lstm, mlp, realnvp, resnet, vae
from benchmarks.contest import Contest


@dataclass(frozen=True)
class Line:
    """One line: a contest, which of its steps ("train" or "predict"), the ratio asked for."""

    contest: Callable[[], Contest]
    kind: str
    asked: float

    def steps(self) -> dict[str, Callable[[], Any]]:
        """The competitors' steps; all start from the same weights."""
        sides = self.contest().competitors
        return {name: getattr(side, self.kind) for name, side in sides.items()}


LINES: dict[str, Line] = {
    "CNN, train": Line(cnn.contest, "train", 16.4 / 5.0),
    "CNN, predict": Line(cnn.contest, "predict", 7.6 / 1.9),
    "VAE, train": Line(vae.contest, "train", 4.0 / 2.2),
    "VAE, reconstruct one": Line(vae.contest, "predict", 0.077 / 0.035),
    "MLP small, train": Line(mlp.small, "train", 0.155 / 0.035),
    "MLP small, predict one": Line(mlp.small, "predict", 0.0136 / 0.006),
    "MLP, train": Line(mlp.wide, "train", 1.23 / 0.6),
    "RealNVP, train": Line(realnvp.contest, "train", 9.6 / 5.0),
    "LSTM, train": Line(lstm.contest, "train", 26.3 / 21),
    "GPT, train": Line(gpt.contest, "train", 35.8 / 21),
    "ResNet-18, train": Line(resnet.contest, "train", 303 / 260),
    "ResNet-18, predict": Line(resnet.contest, "predict", 84.6 / 75),
}

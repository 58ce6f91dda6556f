"""The recipes that `avalon train` follows, one for each model of the zoo.

Comes in: `Options`. Goes out: a folder with the trained weights (`model.safetensors`), the
learning curve and a picture of what the model does; a line with the result on the screen.
Guaranteed: the same options give the same weights, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalon import pictures
from avalon.data.images import load_images
from avalon.fit import fit
from avalon.functions.creation import randn
from avalon.model import predict
from avalon.nn import NLLLoss
from avalon.optim import Adam
from avalon.random import manual_seed
from avalon.save import save
from avalon.tensor import no_grad, tensor
from avalon.zoo.cnn import CNN
from avalon.zoo.vae import VAE, vae_loss

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Options:
    """What to train on, how long, and where to put the results."""

    data: str
    epochs: int
    batch_size: int
    seed: int
    out: Path


@dataclass(frozen=True)
class Recipe:
    """How one model is trained, and the epochs and batch size it uses unless told otherwise."""

    train: Callable[[Options], None]
    epochs: int
    batch_size: int


def train_cnn(options: Options) -> None:
    """Train the CNN to read digits, and draw its curve and its predictions."""
    train, test = load_images(options.data)
    manual_seed(options.seed)
    model = CNN()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"CNN on {options.data}: {len(train[0])} images to train, {len(test[0])} to test")
    start = time.perf_counter()
    history = fit(
        model,
        train,
        NLLLoss(),
        Adam(lr=LEARNING_RATE),
        epochs=options.epochs,
        batch_size=options.batch_size,
        schedule=falling_cosine(options.epochs),
        validation=test,
    )
    seconds = time.perf_counter() - start
    images, labels = test
    predicted = predict(model, images).numpy().argmax(axis=1)
    right = int((predicted == labels).sum())
    save(model, options.out / "model.safetensors")
    history.plot(options.out / "learning_curve.png")
    pictures.save_predictions(options.out / "predictions.png", images, predicted, labels)
    print(
        f"test accuracy {100 * right / len(labels):.2f} % ({right} of {len(labels)}), "
        f"trained in {seconds:.1f} s"
    )
    print(f"wrote {options.out}/: model.safetensors, learning_curve.png, predictions.png")


def train_vae(options: Options) -> None:
    """Train the VAE on images alone, and draw its curve, reconstructions and new images."""
    train, test = (pair[0].reshape(len(pair[0]), -1) for pair in load_images(options.data))
    manual_seed(options.seed)
    model = VAE(pixels=train.shape[1])
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"VAE on {options.data}: {len(train)} images to train, {len(test)} to test")
    start = time.perf_counter()
    history = fit(
        model,
        train,
        vae_loss,
        Adam(lr=LEARNING_RATE),
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation=test,
    )
    seconds = time.perf_counter() - start
    save(model, options.out / "model.safetensors")
    history.plot(options.out / "learning_curve.png")
    _draw_images(model, test[:10], options.out / "images.png")
    print(
        f"test loss {history['validation loss'][-1]:.2f} an image, trained in {seconds:.1f} s\n"
        f"wrote {options.out}/: model.safetensors, learning_curve.png, images.png"
    )


def falling_cosine(epochs: int, rate: float = LEARNING_RATE) -> Callable[[float], float]:
    """A schedule from `rate` down to 0 along half a cosine.

    >>> falling_cosine(10)(0.0), falling_cosine(10)(5.0)
    (0.001, 0.0005)
    """
    return lambda epoch: rate * (1 + math.cos(math.pi * min(epoch / epochs, 1))) / 2


def _draw_images(model: VAE, images: Any, path: Path) -> None:
    side = math.isqrt(images.shape[1])
    with no_grad():
        mean, _ = model.encode(tensor(images))
        again = model.decode(mean).sigmoid().numpy()
        new = model.decode(randn(10, mean.shape[1])).sigmoid().numpy()
    rows = {"images of the test": images, "reconstructed": again, "drawn from the model": new}
    pictures.save_rows(path, {name: row.reshape(-1, side, side) for name, row in rows.items()})


RECIPES = {
    "cnn": Recipe(train_cnn, epochs=10, batch_size=32),
    "vae": Recipe(train_vae, epochs=20, batch_size=100),
}

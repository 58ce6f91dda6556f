"""Pictures of a training run, as PNG files; they need matplotlib (`pip install 'avalon[plot]'`).

Comes in: a history, images, labels. Goes out: files. Guaranteed: works without a screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_GRID = 8


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Array]:
    """A matplotlib figure that needs no screen, and its axes as an array (rows, columns).

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "[plot] pictures are drawn by matplotlib, which is not installed: "
            "pip install 'avalon[plot]'"
        ) from error
    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing, drawing.subplots(rows, columns, squeeze=False)


def draw_curves(curves: Mapping[str, Sequence[float]]) -> Any:
    """Draw values by epoch: one panel for each quantity, training and validation in the same one.

    `curves` maps names to one value an epoch; "validation loss" joins the panel of "loss". Returns
    the matplotlib figure.
    """
    panels = list(dict.fromkeys(name.removeprefix("validation ") for name in curves))
    drawing, axes = figure(4.5 * max(len(panels), 1), 3.4, columns=max(len(panels), 1))
    for axis, panel in zip(axes[0], panels, strict=False):
        for name in (panel, f"validation {panel}"):
            if name in curves:
                epochs = range(1, len(curves[name]) + 1)
                axis.plot(
                    epochs, curves[name], marker="." if len(epochs) < 40 else None, label=name
                )
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(panel)
        axis.grid(alpha=0.3)
        axis.legend()
    return drawing


def save_predictions(path: Path, images: Array, predicted: Array, labels: Array) -> None:
    """Draw images (N, 1, height, width) with the predicted classes, mistakes first and in red.

    `predicted` and `labels` have shape (N,); up to 64 images are drawn.
    """
    order = np.argsort(predicted == labels, kind="stable")[: _GRID * _GRID]
    drawing, axes = figure(_GRID, _GRID * 1.2, _GRID, _GRID)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, order, strict=False):
        right = predicted[i] == labels[i]
        axis.imshow(images[i, 0], cmap="gray_r")
        title = f"{predicted[i]}" if right else f"{predicted[i]}, is {labels[i]}"
        axis.set_title(title, fontsize=9, color="black" if right else "red")
    drawing.savefig(path, dpi=100)


def save_rows(path: Path, rows: Mapping[str, Array]) -> None:
    """Draw titled rows of images, each (N, height, width); up to 10 of a row are drawn."""
    columns = min(10, max(len(images) for images in rows.values()))
    drawing, axes = figure(columns, 1.3 * len(rows), len(rows), columns)
    for axis in axes.flat:
        axis.axis("off")
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    drawing.savefig(path, dpi=100)

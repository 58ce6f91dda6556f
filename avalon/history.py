"""What a training run measured: one list of values, an item an epoch, for each quantity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avalon import pictures


class History(dict[str, list[float]]):
    """Values by name ("loss", "accuracy", "validation loss", ...), one an epoch; plots itself.

    Attributes:
        seconds: how long each epoch took, validation included.
        interrupted: True if ctrl-C ended the run; the model keeps what it had learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.interrupted = False

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.items() if values)
        state = ", interrupted" if self.interrupted else ""
        return f"History({len(self.seconds)} epochs{state}: {last})"

    def add(self, values: dict[str, float], seconds: float) -> None:
        """Append the values of one epoch."""
        for name, value in values.items():
            self.setdefault(name, []).append(value)
        self.seconds.append(seconds)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the curves by epoch; write them to a picture file if `path` is given.

        Returns:
            The matplotlib figure, which notebooks show by themselves.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        drawing = pictures.draw_curves(self)
        if path is not None:
            drawing.savefig(path, dpi=120)
        return drawing

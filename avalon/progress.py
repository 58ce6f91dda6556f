"""What a training run says while it runs, on stderr.

Comes in: batches and values. Goes out: a bar that moves (tqdm, in a terminal), else one line an
epoch: values, speed, and the time that went into compiling. Guaranteed: nothing is printed if
`progress=False`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from avalon.tracing.execute import build_seconds

_WORTH_SAYING = 0.05


class Progress:
    """The display of one run of `epochs` epochs."""

    def __init__(self, epochs: int, shown: bool) -> None:
        self.epochs = epochs
        self.shown = shown
        self._bar: Any = None
        self._start = 0.0
        self._built = 0.0
        self._batches = 0

    def begin(self, epoch: int, total: int | None, done: int) -> None:
        """A new epoch (counted from 0) of `total` batches, of which `done` were done before."""
        self._start = time.perf_counter()
        self._built = build_seconds()
        self._batches = 0
        make = _tqdm() if self.shown and sys.stderr.isatty() else None
        if make is not None:
            title = f"epoch {epoch + 1}/{self.epochs}"
            self._bar = make(desc=title, total=total, initial=done, unit="batch")

    def batches(self, count: int, values: Mapping[str, float]) -> None:
        """So many more batches; `values` are the means of the epoch so far."""
        self._batches += count
        if self._bar is not None:
            self._bar.set_postfix(self._texts(values), refresh=False)
            self._bar.update(count)

    def end(self, epoch: int, values: Mapping[str, float]) -> None:
        """The epoch is over, its validation too."""
        if self._bar is not None:
            self._bar.set_postfix(self._texts(values))
            self.close()
        elif self.shown:
            seconds = time.perf_counter() - self._start
            speed = self._batches / seconds if seconds else 0.0
            listed = ", ".join(f"{name} {text}" for name, text in self._texts(values).items())
            width = len(str(self.epochs))
            line = f"epoch {epoch + 1:{width}}/{self.epochs}: {listed} ({speed:.1f} batches/s)"
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close()
        if self.shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _texts(self, values: Mapping[str, float]) -> dict[str, str]:
        texts = {name: f"{value:.4g}" for name, value in values.items()}
        compiling = build_seconds() - self._built
        if compiling >= _WORTH_SAYING:
            texts["compile"] = f"{compiling:.1f} s"
        return texts


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None

    class Bar(tqdm):
        monitor_interval = 0  # no thread that outlives the bar

    return Bar

"""The results as a table, a JSON file and a picture.

Comes in: the results by section. Goes out: text, and three files in a folder. Ratios are the
medians of the paired turns (peer over Avalon, so above 1 means that Avalon is faster).
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.contest import Turns

Results = dict[str, Any]
OURS = "avalon"


def ratio(turns: Turns, peer: str) -> float:
    """How many times as long the peer took, as the median over the turns."""
    return median(b / a for a, b in zip(turns[OURS], turns[peer], strict=True))


def summarize(turns: Turns) -> dict[str, Any]:
    """Medians in milliseconds, and ratios against each of the others."""
    return {
        "milliseconds": {name: round(median(values) * 1e3, 3) for name, values in turns.items()},
        "times as long": {n: round(ratio(turns, n), 2) for n in turns if n != OURS},
        "turns": {name: [round(v * 1e3, 4) for v in values] for name, values in turns.items()},
    }


def table(results: Results) -> str:
    """The results as text."""
    lines = [f"{name}: {value}" for name, value in results["machine"].items()]
    names = list(next(iter(results["workloads"].values()))["milliseconds"])
    lines += ["", f"{'milliseconds':<36}" + "".join(f"{name:>18}" for name in names)]
    for title, workload in results["workloads"].items():
        times, ratios = workload["milliseconds"], workload["times as long"]
        cells = (f"{times[n]:.2f}" + (f" ({ratios[n]:.2f}x)" if n in ratios else "") for n in names)
        lines.append(f"{title:<36}" + "".join(f"{cell:>18}" for cell in cells))
    lines += ["", "(in brackets: how many times as long as Avalon's compiled step)"]
    for section in ("first four steps less four steady ones", "import", "compiled call"):
        if section in results:
            lines += ["", section]
            lines += [f"  {name:<34}{_duration(s):>14}" for name, s in results[section].items()]
    return "\n".join(lines)


def write(results: Results, folder: Path) -> None:
    """Write `results.json`, `results.txt` and `results.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.txt").write_text(table(results) + "\n")
    workloads = results["workloads"]
    figure, axes = plt.subplots(1, len(workloads), figsize=(3.2 * len(workloads), 3.2))
    for axis, (title, workload) in zip(axes, workloads.items(), strict=True):
        times = workload["milliseconds"]
        bars = axis.bar(list(times), list(times.values()))
        for bar, name in zip(bars, times, strict=True):
            bar.set_color("tab:blue" if name.startswith(OURS) else "tab:gray")
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(axis="x", rotation=30, labelsize=8)
    axes[0].set_ylabel("milliseconds")
    figure.tight_layout()
    figure.savefig(folder / "results.png", dpi=120)
    plt.close(figure)


def _duration(seconds: float) -> str:
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"

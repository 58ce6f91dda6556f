"""The results as text, a JSON file and a picture.

Comes in: the results by section. Goes out: text, and three files in a folder. Ratios are the
medians of the paired turns (peer over Avalon, so above 1 means that Avalon is faster).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.contest import Turns

Results = dict[str, Any]
OURS = "avalon"
OTHER_WAYS = ("avalon loop", "compiled")  # of using Avalon: no peers


def ratio(turns: Turns, peer: str) -> float:
    """How many times as long the peer took, as the median over the turns."""
    return median(b / a for a, b in zip(turns[OURS], turns[peer], strict=True))


def summarize(turns: Turns) -> dict[str, Any]:
    """Medians in milliseconds, and ratios against each of the others."""
    return {
        "milliseconds": {name: round(median(values) * 1e3, 4) for name, values in turns.items()},
        "times as long": {n: round(ratio(turns, n), 2) for n in turns if n != OURS},
        "turns": {name: [round(v * 1e3, 4) for v in values] for name, values in turns.items()},
    }


def best(summary: Mapping[str, Any]) -> float:
    """The ratio against the best peer."""
    ratios = summary["times as long"]
    return float(min(value for name, value in ratios.items() if name not in OTHER_WAYS))


def geometric_mean(values: list[float]) -> float:
    """The geometric mean of positive numbers."""
    return exp(sum(map(log, values)) / len(values))


def text(results: Results) -> str:
    """The results as text."""
    lines = [f"{name}: {value}" for name, value in results["machine"].items()]
    for section, found in results.items():
        if section in _SECTIONS and found:
            lines += ["", section, *_SECTIONS[section](found)]
    return "\n".join(lines)


def _table(found: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(n for one in found.values() for n in one["milliseconds"]))
    lines = [f"{'milliseconds':<26}" + "".join(f"{n:>15}" for n in names) + "    best   asked"]
    for title, one in found.items():
        cells = (f"{one['milliseconds'].get(n, float('nan')):15.3f}" for n in names)
        lines.append(f"{title:<26}" + "".join(cells) + f"{best(one):8.2f}{one['asked']:8.2f}")
    ratios = [best(one) for one in found.values()]
    lines.append(
        f"best: the best peer's time over Avalon's; geometric mean {geometric_mean(ratios):.2f}, "
        f"least {min(ratios):.2f}"
    )
    return lines


def _rows(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for title, one in found.items():
        if isinstance(one, str):
            lines.append(f"{title:<40}{one}")
            continue
        times = "".join(f"{n:>10} {v:10.4f}" for n, v in one["milliseconds"].items())
        lines.append(f"{title:<40}{times}   ratio {best(one):6.2f}")
    ratios = [best(one) for one in found.values() if not isinstance(one, str)]
    well = sum(value >= 1 for value in ratios)
    lines.append(f"{well} of {len(ratios)} at 1.0 or better, least {min(ratios):.2f}")
    return lines


def _squares(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for size, one in found.items():
        rates = one["rate"]
        share = rates[OURS] / rates["multiply-adds"]
        cells = "".join(f"{name:>16} {rate:7.1f}" for name, rate in rates.items())
        lines.append(f"{size:<8}{cells}   ratio {best(one):5.2f}  of the limit {share:5.2f}")
    return ["GFLOP/s", *lines]


def _durations(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for title, one in found.items():
        lines += [title, *(f"  {name:<40}{_duration(s):>14}" for name, s in one.items())]
    return lines


def _processes(found: Mapping[str, Any]) -> list[str]:
    return [f"{title}: {one}" for title, one in found.items()]


def _scaling(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for axis, sizes in found.items():
        lines += [axis, *(f"  {line}" for line in _rows(sizes)[:-1])]
    return lines


def _attention(found: Mapping[str, Any]) -> list[str]:
    title = "peak bytes of training steps"
    peaks = (f"  {length:<38}{peak}" for length, peak in found[title].items())
    return [*_rows(found["times"]), title, *peaks]


_SECTIONS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "table": _table,
    "loops": _rows,
    "squares": _squares,
    "layers": _rows,
    "starts": _durations,
    "processes": _processes,
    "scaling": _scaling,
    "attention": _attention,
}


def write(results: Results, folder: Path) -> None:
    """Write `results.json`, `results.txt` and, of the table, `results.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.txt").write_text(text(results) + "\n")
    if results.get("table"):
        _picture(results["table"], folder / "results.png")


def _picture(table: Mapping[str, Any], path: Path) -> None:
    columns = min(4, len(table))
    rows = -(-len(table) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 3 * rows), squeeze=False)
    for axis in grid.flat[len(table) :]:
        axis.set_axis_off()
    for axis, (title, line) in zip(grid.flat, table.items(), strict=False):
        times = line["milliseconds"]
        bars = axis.bar(list(times), list(times.values()))
        for bar, name in zip(bars, times, strict=True):
            bar.set_color("tab:blue" if name.startswith(OURS) else "tab:gray")
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.set_title(title, fontsize=9)
        axis.tick_params(axis="x", rotation=30, labelsize=7)
        axis.set_ylabel("milliseconds", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _duration(seconds: float) -> str:
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"

"""The command line: `avalon train cnn|vae`, `avalon cache show|clear`, `avalon doctor`.

Comes in: arguments. Goes out: a trained model with its pictures, in a folder; or text.
Guaranteed: a wrong word is answered with the nearest right one and exit code 2, an error of the
library with its message alone and exit code 1.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from avalon.diagnosis.doctor import doctor
from avalon.errors import AvalonError
from avalon.runtime import cache
from avalon.settings import settings
from avalon.zoo.train import RECIPES, Options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; `sys.argv` unless given."""
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        options.run(options)
    except (AvalonError, ModuleNotFoundError, OSError) as error:
        raise SystemExit(f"avalon: {error}") from error


def _train(options: argparse.Namespace) -> None:
    recipe = RECIPES[options.model]
    recipe.train(
        Options(
            data=options.data,
            epochs=options.epochs or recipe.epochs,
            batch_size=options.batch_size or recipe.batch_size,
            seed=options.seed,
            out=options.out or Path("out") / options.model,
        )
    )


def _cache(options: argparse.Namespace) -> None:
    count, size = cache.size()
    if options.action == "clear":
        cache.clear()
    what = "removed" if options.action == "clear" else "holds"
    print(f"{settings.cache}: {what} {count} entries, {size / 2**20:.1f} MB")


def _doctor(options: argparse.Namespace) -> None:
    print(doctor(measure=not options.quick))


class _Parser(argparse.ArgumentParser):
    """A parser that knows how its words are spelled, and says so."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")

    def choose(self, kind: str, word: str, words: Sequence[str]) -> str:
        """Return `word` if it is one of `words`, else stop with the nearest one."""
        if word not in words:
            self.error(
                f"unknown {kind} {word!r}{_nearest(word, words)}; choose {' or '.join(words)}"
            )
        return word

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="avalon",
        description="Train example models; look after the cache; look at this machine.",
    )
    parser.add_argument("--version", action="version", version=f"avalon {version('avalon')}")
    parser.add_argument("command", metavar="train|cache|doctor", nargs="?")
    commands = {"train": _train_parser(), "cache": _cache_parser(), "doctor": _doctor_parser()}
    if not arguments:
        parser.print_help()
        parser.exit(2)
    # The first word picks the parser of the rest, so that each parser can explain its own words.
    known, _ = parser.parse_known_args(arguments[:1])
    first = parser.choose("command", known.command or arguments[0], list(commands))
    command = commands[first]
    options, unknown = command.parse_known_args(arguments[1:])
    if unknown:
        command.error(f"unknown option {unknown[0]!r}{_nearest(unknown[0], command.options())}")
    if first == "train":
        command.choose("model", options.model, list(RECIPES))
    elif first == "cache":
        command.choose("action", options.action, ["show", "clear"])
    return options


def _train_parser() -> _Parser:
    parser = _Parser(
        prog="avalon train",
        description="Train a model; print its result; leave the model and pictures in a folder.",
    )
    parser.set_defaults(run=_train)
    parser.add_argument("model", metavar="cnn|vae", help="what to train")
    parser.add_argument(
        "--data",
        default="digits",
        metavar="digits|FOLDER",
        help="the digits of scikit-learn (the default), or a folder of MNIST files",
    )
    parser.add_argument("--epochs", type=_positive, help="passes over the data")
    parser.add_argument("--batch-size", type=_positive, help="images in a step")
    parser.add_argument("--seed", type=int, default=0, help="decides weights and order (0)")
    parser.add_argument("--out", type=Path, help="folder for the results (out/MODEL)")
    return parser


def _cache_parser() -> _Parser:
    parser = _Parser(prog="avalon cache", description="Compiled kernels and programs on disk.")
    parser.set_defaults(run=_cache)
    parser.add_argument("action", metavar="show|clear", help="say what is there, or remove it")
    return parser


def _doctor_parser() -> _Parser:
    parser = _Parser(
        prog="avalon doctor", description="Say what was found on this machine, and what is wrong."
    )
    parser.set_defaults(run=_doctor)
    parser.add_argument("--quick", action="store_true", help="measure no rates")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _nearest(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.3)
    return f" (did you mean {near[0]!r}?)" if near else ""

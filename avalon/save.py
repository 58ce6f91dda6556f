"""Saving and loading: models by the names of their tensors, and any nested state, as safetensors.

Comes in: a model, a state dict, or nested dicts, lists and tuples of tensors and plain values.
Goes out: the same from the file; a model is loaded into one that exists. Guaranteed: files hold
names and arrays, never classes, and loading runs no code; a flat dict of tensors is a plain
safetensors file for everybody; a bad file is a `CheckpointError` and changes nothing.

What is nested is described in the file's metadata under "avalon": JSON in which each container that
JSON lacks is marked, and each tensor stands by its name in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avalon import dtype as dtypes, safetensors
from avalon.errors import CheckpointError
from avalon.model import load_state_dict, state_dict
from avalon.safetensors import Stored
from avalon.tensor import Tensor
from avalon.tracing.values import Value

FORMAT = "1"


def save(what: Any, path: str | Path) -> None:
    """Write a model, a state dict or nested values with tensors to a file.

    Args:
        what: an object with tensors in its fields (its state dict is saved), a dict of tensors, or
            dicts, lists and tuples of tensors, arrays, numbers, strings, booleans and None.
        path: the file, by custom with the ending `.safetensors`; replaced once it is complete.

    Raises:
        CheckpointError: a value of another type, or the file cannot be written.

    >>> import avalon as av, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "line.safetensors")
    >>> av.save({"slope": av.ones(2), "epoch": 3}, path)
    >>> av.load(path)
    {'slope': tensor([1., 1.]), 'epoch': 3}
    """
    if not isinstance(what, (Mapping, list, tuple, Tensor, np.ndarray)):
        what = state_dict(what)
    arrays: dict[str, Stored] = {}
    if isinstance(what, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in what.items()
    ):
        safetensors.write(Path(path), {name: _stored(t) for name, t in what.items()}, {})
        return
    tree = json.dumps(_encode(what, "", arrays))
    safetensors.write(Path(path), arrays, {"avalon": tree, "avalon.format": FORMAT})


def load(path: str | Path, into: Any = None, strict: bool = True) -> Any:
    """Read a file that `save` wrote, or any safetensors file.

    Args:
        path: the file.
        into: a model whose tensors take the file's values; it is returned.
        strict: with `into`, refuse names that are missing or superfluous.

    Returns:
        `into`, or what was saved; of a foreign file a dict of tensors by name.

    Raises:
        CheckpointError: the file is missing, damaged or foreign, or does not fit the model.
    """
    arrays, metadata = safetensors.read(Path(path))
    tensors = {name: _tensor(stored) for name, stored in arrays.items()}
    what: Any = tensors
    if "avalon" in metadata:
        version = metadata.get("avalon.format", FORMAT)
        if version != FORMAT:
            raise CheckpointError(
                f"[load] {path} has format {version}, this version of Avalon reads format "
                f"{FORMAT}: use a newer Avalon"
            )
        try:
            what = _decode(json.loads(metadata["avalon"]), tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"[load] {path} is damaged: {error!r}") from error
    if into is None:
        return what
    if not isinstance(what, dict):
        raise CheckpointError(f"[load] {path} holds a {type(what).__name__}, not a model's state")
    load_state_dict(into, what, strict)
    return into


def _stored(tensor: Tensor) -> Stored:
    return Stored(tensor.dtype, tensor.detach().value().host())


def _tensor(stored: Stored) -> Tensor:
    return Tensor._make(Value.from_numpy(stored.array, stored.dtype))


def _encode(what: Any, name: str, arrays: dict[str, Stored]) -> Any:
    """`what` in JSON's terms, its tensors put into `arrays`."""
    if what is None or isinstance(what, (bool, int, float, str)):
        return what
    if isinstance(what, (Tensor, np.ndarray)):
        while name in arrays:
            name += "'"
        if isinstance(what, Tensor):
            arrays[name] = _stored(what)
            return {"$tensor": name}
        arrays[name] = Stored(dtypes.from_numpy(what.dtype), what)
        return {"$array": name}
    if isinstance(what, Mapping):
        pairs = [
            [_encode(key, name, arrays), _encode(value, f"{name}.{key}".lstrip("."), arrays)]
            for key, value in what.items()
        ]
        if all(isinstance(key, str) and not key.startswith("$") for key in what):
            return dict(pairs)
        return {"$dict": pairs}
    if isinstance(what, (list, tuple)):
        items = [_encode(value, f"{name}.{i}".lstrip("."), arrays) for i, value in enumerate(what)]
        return items if isinstance(what, list) else {"$tuple": items}
    raise CheckpointError(
        f"[save] {name or 'the value'} is a {type(what).__name__}: files hold tensors, arrays, "
        f"numbers, strings, and dicts, lists and tuples of them; save its state_dict() instead"
    )


def _decode(coded: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(coded, list):
        return [_decode(item, tensors) for item in coded]
    if not isinstance(coded, dict):
        return coded
    if len(coded) == 1:
        ((mark, content),) = coded.items()
        if mark == "$tensor":
            return tensors[content]
        if mark == "$array":
            return tensors[content].value().host().copy()
        if mark == "$tuple":
            return tuple(_decode(item, tensors) for item in content)
        if mark == "$dict":
            return {_decode(key, tensors): _decode(value, tensors) for key, value in content}
    return {key: _decode(value, tensors) for key, value in coded.items()}

"""Counted dicts: every way to change one counts, and reading does not."""

import copy
import pickle

import pytest

import avalon as av
from avalon.rebinding import CountedDict, rebindings

CHANGES = {
    "set": lambda d: d.__setitem__("a", 2),
    "new": lambda d: d.__setitem__("c", 2),
    "delete": lambda d: d.__delitem__("a"),
    "pop": lambda d: d.pop("a"),
    "popitem": lambda d: d.popitem(),
    "setdefault": lambda d: d.setdefault("c", 3),
    "update": lambda d: d.update({"a": 5}),
    "update by name": lambda d: d.update(a=5),
    "join": lambda d: d.__ior__({"a": 5}),
    "clear": lambda d: d.clear(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_counts_and_does_what_a_dict_does(name):
    counted, plain = CountedDict({"a": 1, "b": 2}), {"a": 1, "b": 2}
    own, everybodys = counted._rebindings, rebindings.count
    CHANGES[name](counted)
    CHANGES[name](plain)
    assert counted == plain
    assert counted._rebindings > own
    assert rebindings.count > everybodys


def test_every_way_of_dict_to_change_one_is_counted():
    reading = {
        "__class_getitem__", "__contains__", "__eq__", "__ge__", "__getattribute__",
        "__getitem__", "__gt__", "__init__", "__iter__", "__le__", "__len__", "__lt__", "__ne__",
        "__new__", "__or__", "__repr__", "__reversed__", "__ror__", "__sizeof__", "copy",
        "fromkeys", "get", "items", "keys", "values", "__doc__", "__hash__",
    }  # fmt: skip
    assert set(vars(dict)) - reading <= set(vars(CountedDict))


def test_reading_does_not_count():
    counted = CountedDict(a=1)
    before = counted._rebindings, rebindings.count
    assert counted["a"] == counted.get("a") == 1
    assert [*counted.items()] == [("a", 1)]
    assert (counted._rebindings, rebindings.count) == before


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
def test_copies_count_for_themselves(copied):
    first = CountedDict(a=[1])
    second = copied(first)
    assert type(second) is CountedDict
    assert second == first
    before = first._rebindings
    second["a"] = 2
    assert first._rebindings == before
    assert first["a"] == [1]


def test_an_optimizer_and_its_state_are_copied_and_pickled():
    weight = av.nn.Parameter(av.ones(2))
    optimizer = av.optim.Adam([weight], lr=0.1)
    (weight**2).sum().backward()
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (state,) = other.state.values()
        assert state["exp_avg"].tolist() == optimizer.state[weight]["exp_avg"].tolist()
        assert other.param_groups[0]["lr"] == 0.1
    assert type(optimizer.state_dict()["state"][0]) is dict

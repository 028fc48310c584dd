import collections
import functools
import threading
import types
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pydantic
import pytest
import torch
from torch import nn

from dist_rec.data.rewrite import replace_inside


class Old:
    """What is replaced."""


class New:
    def __init__(self, of: Old) -> None:
        self.of = of


OLD = Old()


def replaced(value: Any) -> Any:
    return replace_inside(value, (Old,), New)


class Named(NamedTuple):
    label: int
    part: Any


class NamedMore(Named):
    """A named tuple with a constructor of its own."""

    def __new__(cls, part: Any) -> "NamedMore":
        return super().__new__(cls, 1, part)


@dataclass
class Data:
    part: Any


@dataclass(frozen=True)
class Frozen:
    part: Any


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    part: Any


class Plain:
    def __init__(self, part: Any) -> None:
        self.part = part
        self.note = "kept"


class Slots:
    __slots__ = ("__hidden", "part", "unset")

    def __init__(self, part: Any) -> None:
        self.part, self.__hidden = part, [part]

    def hidden(self) -> Any:
        return self.__hidden


class SlotsBelow(Slots):
    """Its parent has slots, it has a `__dict__`."""

    def __init__(self, part: Any) -> None:
        super().__init__(part)
        self.more = part


class ReadOnly:
    def __init__(self, part: Any) -> None:
        self.__dict__["part"] = part

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("read only")


class Guarded:
    """A property that checks, in front of where the part is kept."""

    def __init__(self, part: Any) -> None:
        self._part = part

    @property
    def part(self) -> Any:
        return self._part


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow", frozen=True)
    part: Old
    _private: Any = pydantic.PrivateAttr(default=None)


class MyDict(dict):
    pass


class MyList(list):
    pass


class Delegates:
    """Passes on what it does not have, and does not care whether it has `_inner` yet."""

    def __init__(self, inner: Any) -> None:
        self._inner = Plain(inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class DelegatesBySlot:
    __slots__ = ("_inner", "more")

    def __init__(self, inner: Any) -> None:
        self._inner = Plain(inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ByAttribute(dict):
    """A dict with attributes, of which it has some of its own."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(parts)
        object.__setattr__(self, "note", "kept")

    def __getattr__(self, name: str) -> Any:
        return self[name]


def _attribute(found: Any) -> Any:
    return found.part


HOLDERS = {
    "tuple": (lambda old: (1, old), lambda new: new[1]),
    "named tuple": (lambda old: Named(1, old), _attribute),
    "named tuple with a constructor": (NamedMore, _attribute),
    "list": (lambda old: [1, old], lambda new: new[1]),
    "list of its own": (lambda old: MyList([old]), lambda new: new[0]),
    "deque": (lambda old: deque([old], maxlen=3), lambda new: new[0]),
    "set": (lambda old: {old}, lambda new: next(iter(new))),
    "frozenset": (lambda old: frozenset([old]), lambda new: next(iter(new))),
    "dict": (lambda old: {"x": old}, lambda new: new["x"]),
    "dict of its own": (lambda old: MyDict(x=old), lambda new: new["x"]),
    "ordered": (lambda old: OrderedDict(x=old), lambda new: new["x"]),
    "default": (lambda old: defaultdict(list, x=old), lambda new: new["x"]),
    "user dict": (lambda old: collections.UserDict(x=old), lambda new: new["x"]),
    "chain": (lambda old: collections.ChainMap({"x": old}), lambda new: new["x"]),
    "read-only mapping": (lambda old: types.MappingProxyType({"x": old}), lambda new: new["x"]),
    "namespace": (lambda old: types.SimpleNamespace(part=old), _attribute),
    "dataclass": (Data, _attribute),
    "frozen": (Frozen, _attribute),
    "frozen with slots": (FrozenSlots, _attribute),
    "object": (Plain, _attribute),
    "slots": (Slots, _attribute),
    "private slot": (Slots, lambda new: new.hidden()[0]),
    "slots and a dict": (SlotsBelow, lambda new: new.more),
    "read-only": (ReadOnly, _attribute),
    "property": (Guarded, _attribute),
    "delegates": (Delegates, _attribute),
    "delegates, slots": (DelegatesBySlot, _attribute),
    "delegates, deep": (lambda old: Delegates(Delegates(old)), lambda new: new._inner.part.part),
    "dict by attribute": (lambda old: ByAttribute(part=old), _attribute),
    "pydantic": (lambda old: Model(part=old), _attribute),
    "pydantic extra": (lambda old: Model(part=Old(), extra=old), lambda new: new.extra),
    "deep": (lambda old: {"a": [Plain(Slots((1, Frozen([old]))))]}, lambda new: new["a"][0].part.part[1].part[0]),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_finds_it_and_keeps_the_type(kind: str) -> None:
    make, find = HOLDERS[kind]
    value = make(OLD)
    new = replaced(value)
    assert type(new) is type(value) and new is not value
    assert isinstance(find(new), New) and find(new).of is OLD
    assert find(value) is OLD, "the original stays as it is"


def test_the_rest_of_a_container_stays() -> None:
    found = replaced(defaultdict(list, a=[1], b=OLD, c=3))
    assert list(found) == ["a", "b", "c"] and found["new"] == [] and found["c"] == 3
    value = OrderedDict(a=OLD, b=2)
    value.move_to_end("a")
    found = replaced(value)
    found.move_to_end("b")
    assert list(found) == ["a", "b"]
    kept = MyList([OLD])
    kept.note = "kept"  # pyright: ignore[reportAttributeAccessIssue]
    assert replaced(kept).note == "kept" and replaced(Plain(OLD)).note == "kept"
    assert replaced(deque([OLD], maxlen=3)).maxlen == 3


def test_what_holds_nothing_is_the_same_object() -> None:
    value = {"a": [1, Plain(2)], "b": Data(torch.ones(2))}
    assert replaced(value) is value and replaced(OLD).of is OLD and replaced(None) is None
    holder = {"untouched": value, "x": OLD}
    assert replaced(holder)["untouched"] is value


def test_what_is_shared_is_changed_once() -> None:
    calls: list[Old] = []
    inner = Plain(OLD)
    found = replace_inside({"a": inner, "b": [inner, OLD]}, (Old,), lambda old: calls.append(old) or New(old))
    assert calls == [OLD] and found["a"] is found["b"][0] and found["a"].part is found["b"][1]


def test_cycles_stay_cycles() -> None:
    value: Any = Plain(OLD)
    value.me, value.items, value.both = value, [value], (value, [])
    value.both[1].append(value.both)
    found = replaced(value)
    assert found.me is found and found.items[0] is found and found.both[0] is found and found.both[1][0] is found.both
    assert isinstance(found.part, New) and value.part is OLD and value.me is value


def test_a_long_chain_is_no_matter() -> None:
    value: Any = None
    for _ in range(10_000):
        value = [value]
    assert replaced(value) is value


class _Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = OLD


class _Data(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.part = OLD


def _function() -> None: ...


_function.part = OLD  # pyright: ignore[reportFunctionMemberAccess]
_TYPE = type("_Type", (), {"part": OLD})


@pytest.mark.parametrize(
    "value",
    [
        _Module(),
        _Data(),
        torch.utils.data.DataLoader(_Data()),
        _TYPE,
        _function,
        functools.partial(_function, OLD),
        threading,
    ],  # pyright: ignore[reportArgumentType]
    ids=["module", "data set", "loader", "type", "function", "partial", "python module"],
)
def test_what_a_batch_only_points_at_is_left_alone(value: Any) -> None:
    holder = Plain(value)
    assert replaced(holder) is holder


def test_an_object_that_cannot_be_copied() -> None:
    class Single(Plain):
        def __copy__(self) -> "Single":
            return self

    value = Single(OLD)
    with pytest.raises(
        TypeError, match="expected to copy a Single, which holds features to be replaced, but its copy is itself"
    ):
        replaced(value)
    assert value.part is OLD


def test_a_copy_that_fails_names_the_class() -> None:
    class NeedsArguments(Plain):
        def __new__(cls, part: Any) -> "NeedsArguments":
            return super().__new__(cls)

    class Broken(Plain):
        def __copy__(self) -> "Broken":
            raise RuntimeError("not now")

    with pytest.raises(
        TypeError, match=r"expected to copy a NeedsArguments, .*TypeError: .*part.*; give the class a __copy__"
    ):
        replaced(NeedsArguments(OLD))
    with pytest.raises(TypeError, match=r"expected to copy a Broken, .*RuntimeError: not now"):
        replaced({"x": Broken(OLD)})

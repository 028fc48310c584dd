from typing import Any, ClassVar

import pytest
from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict, check, check_distinct, nearest


class Leaf(Strict):
    size: int = Field(default=1, ge=1)
    share: float = 0.5
    on: bool = False


class Tree(Strict):
    kinds: ClassVar[int] = 3
    leaf: Leaf = Leaf()
    by_name: dict[str, Leaf] = {}
    several: list[Leaf] = []


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"leef": {}}, "leef: unknown key; did you mean 'leaf'?"),
        ({"leaf": {"sise": 3}}, "leaf.sise: unknown key; did you mean 'size'?"),
        ({"by_name": {"a": {"shar": 1}}}, "by_name.a.shar: unknown key; did you mean 'share'?"),
        ({"several": [{}, {"shar": 1}]}, "several.1.shar: unknown key; did you mean 'share'?"),
        ({"xyz": 1}, "xyz: unknown key; known here: leaf, by_name, several"),
        ({"leaf": None}, "leaf: expected a group of keys, got nothing; remove the line, or add keys"),
        ({"leaf": {"size": True}}, "leaf.size: expected a number, got True"),
        ({"leaf": {"share": float("inf")}}, "leaf.share: Input should be a finite number, got inf"),
        ([], "top level: expected a group of keys, got []"),
    ],
)
def test_a_mistake_says_where_what_and_what_came(tree: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Tree, tree, "here")
    assert str(caught.value).startswith(f"here:\n  {message}")


def test_every_mistake_is_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        check(Tree, {"leaf": {"size": 0}, "leef": 1}, "here")
    assert len(str(caught.value).splitlines()) == 3


def test_what_is_right_is_a_value_that_does_not_change() -> None:
    tree = check(Tree, {"by_name": {"a": {"size": 2, "on": True}}}, "here")
    assert tree.by_name["a"] == Leaf(size=2, on=True)
    with pytest.raises(ValueError, match="frozen"):
        tree.leaf = Leaf()


def test_names_that_occur_twice() -> None:
    check_distinct("labels", ["a", "b"], "why")
    with pytest.raises(ValueError, match=r"labels: expected every name once, got 'b' 3 times; why"):
        check_distinct("labels", ["b", "a", "b", "b"], "why")


def test_the_nearest_name() -> None:
    assert nearest("longr", ["hyformer", "longer"]) == "did you mean 'longer'?"
    assert nearest("xyz", ["hyformer", "longer"]) == "known here: hyformer, longer"
    assert nearest("xyz", []) == "known here: none"

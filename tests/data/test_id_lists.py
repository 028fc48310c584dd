from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.data.id_lists import ListField, id_lists
from tests.data.kind_rows import kinds_schema
from tests.data.requests import make_schema


def test_a_name_is_a_table() -> None:
    assert check(ListField, "tag", "here") == check(ListField, {"table": "tag"}, "here")
    found = id_lists(kinds_schema())
    assert {owner: (of.table, of.pool) for owner, of in found.items()} == {
        "context.tags": ("genre", "mean"),
        "candidate.related": ("item", "sum"),
    }
    assert id_lists(make_schema()) == {}


@pytest.mark.parametrize("tree", [{"pool": "mean"}, {"table": "tag", "pool": "max"}, 3])
def test_what_is_no_list(tree: Any) -> None:
    with pytest.raises(ConfigError):
        check(ListField, tree, "here")

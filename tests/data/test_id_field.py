from typing import Any

import pytest

from dist_rec.data.id_field import IdField


@pytest.mark.parametrize(
    ("given", "name", "table"),
    [
        ("item", "item", "item"),
        ({"name": "item"}, "item", "item"),
        ({"name": "shown", "table": "item"}, "shown", "item"),
    ],
)
def test_a_name_is_its_own_table(given: Any, name: str, table: str) -> None:
    field = IdField.model_validate(given)
    assert (field.name, field.table, field.ngram) == (name, table, None)
    assert IdField.model_validate(field.model_dump()) == field


@pytest.mark.parametrize("wrong", [{"table": "item"}, {"name": "item", "tabel": "item"}, 7, None])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"name|tabel|IdField"):
        IdField.model_validate(wrong)

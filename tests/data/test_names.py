import pytest

from dist_rec.data.names import check_names


@pytest.mark.parametrize("name", ["", "a.b", "keys", "training", "forward"])
def test_names_that_no_module_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name here; expected one without dots"):
        check_names("tables", ["item", name])


def test_other_names_are_free() -> None:
    check_names("tables", ["item", "Ünicode", "with space", "_private"])

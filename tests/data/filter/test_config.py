import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dist_rec.data.filter.config import FilterConfig


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "either a field or older_than_days"),
        ({"field": "item", "values": [1], "older_than_days": 2}, "either a field or older_than_days"),
        ({"field": "item"}, "a field needs one of them"),
        ({"older_than_days": 2, "values": [1]}, "go with a field"),
        ({"field": "item", "values": [1], "file": "ids.txt"}, "either values or a file"),
    ],
)
def test_a_rule_that_means_nothing(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FilterConfig.model_validate({"rules": [{"reason": "bot", **rule}]})


def test_who_needs_hidden() -> None:
    nobody = dict.fromkeys(("privacy", "unlearn", "bot", "sensitive"), "drop")
    assert FilterConfig().hides
    assert not FilterConfig.model_validate({"actions": nobody}).hides
    assert FilterConfig.model_validate({"actions": {**nobody, "bot": "keymask"}}).hides, "candidates have it there"
    assert FilterConfig.model_validate({"actions": nobody, "policy": "my.own:Policy"}).hides, (
        "nobody knows what it does"
    )


def test_reading_it_loads_no_torch() -> None:
    code = "import sys, dist_rec.data.filter.config; assert 'torch' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

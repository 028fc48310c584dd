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
    def hides(by_columns: bool, **config: Any) -> bool:
        return FilterConfig.model_validate(config).hides(by_columns=by_columns)

    nobody = dict.fromkeys(("privacy", "unlearn", "bot", "sensitive"), "drop")
    rules = [{"reason": "bot", "field": "item", "values": [1]}]
    assert hides(True) and not hides(True, actions=nobody), "with reasons in the data any of them may come"
    assert not hides(False) and hides(False, rules=rules) and not hides(False, rules=rules, actions=nobody)
    assert hides(False, rules=rules, actions={**nobody, "bot": "keymask"}), "candidates have it there"
    assert hides(False, score={"above": 0.5, "reason": "privacy"})
    assert not hides(False, score={"above": 0.5, "reason": "low_quality"}), "masked"
    assert hides(False, actions=nobody, policy="my.own:Policy"), "who knows what it does"


def test_reading_it_loads_no_torch() -> None:
    code = "import sys, dist_rec.data.filter.config; assert 'torch' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

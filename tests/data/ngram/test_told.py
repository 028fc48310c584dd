"""N-grams of a command line."""

import pytest

from dist_rec.common.ngram import NgramSpec
from dist_rec.common.strict import ConfigError
from dist_rec.data.ngram.told import ngrams_told


def test_fields_and_their_keys() -> None:
    told = ngrams_told(["history.item={rows: 10, heads: 1}", "history.kind={orders: [2], rows: 5}"])
    assert told == {"history.item": NgramSpec(rows=10, heads=1), "history.kind": NgramSpec(orders=[2], rows=5)}
    assert ngrams_told([]) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("history.item", "expected a field and its keys"),
        ("history.item=5", "expected a field and its keys"),
        ("history.item={rows: [", "expected a field and its keys"),
        ("history.item={row: 5}", "row: unknown key; did you mean 'rows'?"),
    ],
)
def test_refuses(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        ngrams_told([text])

from dist_rec.models.config import TokenConfig
from dist_rec.models.features import FeatureColumns, widened
from tests.data.kind_rows import kinds_schema
from tests.data.requests import make_schema


def test_columns_of_context_come_first_then_those_of_the_candidate() -> None:
    schema = make_schema(
        candidate={"ids": ["item", "kind"], "side": {"slot": 3}, "labels": ["click"]},
        feature_groups={
            "who": ["context.user"],
            "what": ["candidate.item", "candidate.slot"],
            "kind": ["candidate.kind"],
        },
    )
    columns = FeatureColumns.of(schema, {"item": 8, "kind": 4, "user": 16, "query": 4}, side_dim=2)
    assert columns.total == 16 + 8 + 4 + 2
    assert columns.groups == {"who": [slice(0, 16)], "what": [slice(16, 24), slice(28, 30)], "kind": [slice(24, 28)]}
    assert columns.candidate_groups == [1, 2]


def test_numbers_and_times_are_as_wide_as_side_values() -> None:
    """Of requests after their context, then lists; of candidates those that are buckets before the others."""
    dims = {"item": 8, "kind": 4, "user": 16, "query": 4, "genre": 3}
    columns = FeatureColumns.of(kinds_schema(), dims, side_dim=2)
    assert columns.total == 16 + 4 * 2 + 3 + 8 + 4 + 3 * 2 + 8
    assert columns.groups["who"] == [slice(0, 16), *(slice(s, s + 2) for s in (16, 18, 20, 22)), slice(24, 27)]
    price, item, rank, stay = columns.groups["what"]
    assert item == slice(27, 35) and [rank, price, stay] == [slice(s, s + 2) for s in (39, 41, 43)]
    assert columns.groups["kind"] == [slice(35, 39), slice(45, 53)] and columns.candidate_groups == [1, 2]


def test_rows_are_wider_by_their_attributes() -> None:
    dims = {"item": 8, "kind": 4, "user": 16, "query": 4, "genre": 3, "history_kind_ngram": 2}
    found = widened(kinds_schema(), dims, TokenConfig(side_dim=2, vector_dim=5))
    assert found == {**dims, "item": 8 + 2 + 2 + 5 + 3 + 16, "user": 16 + 2}
    assert widened(make_schema(), dims, TokenConfig()) == dims

from dist_rec.models.features import FeatureColumns
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

"""The layout of a schema: test_schema.py."""

from dist_rec.data.layout import FeatureSet


def test_equal_sets_are_one() -> None:
    """Owners of equal sets are deduplicated together."""
    sets = [
        FeatureSet("history", ("history.item",)),
        FeatureSet("history", ("history.item",)),
        FeatureSet("searches", ("q",)),
    ]
    assert [of.name for of in dict.fromkeys(sets)] == ["history", "searches"]

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.roles import CANDIDATES, USER, attributes, events, every_role, later
from dist_rec.data.build.sources import Source
from tests.data.build.small import config

SOURCES = {name: Source(name, {}) for name in ("events", "shown", "items")}


def test_every_row_asks_for_what_it_is_made_of() -> None:
    tree = config(
        attributes={"items": {"key": "id", "of": "item"}},
        sources={name: f"{name}.csv" for name in SOURCES},
        requests={"page": ["page"], "context": {"city": {"column": "town", "table": "place"}}},
        tables={"place": {"ids": "range", "rows": 7}},
    )
    tree["requests"]["ids"]["brand"] = "items.brand"
    tree["sequences"]["history"]["side"]["size"] = "items.size"
    roles = every_role(BuildConfig.model_validate(tree), SOURCES)
    asked = {name: {of.name: of for of in rows.asked} for name, rows in roles.items()}
    assert list(roles) == [CANDIDATES, events("history"), later("bought"), attributes("items")]
    assert list(asked[CANDIDATES]) == [
        "user",
        "time",
        "page 0",
        "order 0",
        "context city",
        "id item",
        "label click",
        "match 0 of bought",
    ]
    assert list(asked[events("history")]) == ["user", "time", "order 0", "id item", "side kind"]
    assert list(asked[later("bought")]) == ["user", "time", "match 0 of bought"]
    assert list(asked[attributes("items")]) == ["key", "brand of brand", "size as a value"]
    city, item = asked[CANDIDATES]["context city"], asked[CANDIDATES]["id item"]
    assert (city.column, city.table, city.rows, city.needed) == ("town", "place", 7, True)
    assert (item.table, item.needed, item.key) == ("item", True, "requests.item")
    assert asked[CANDIDATES]["user"].table == USER and asked[events("history")]["side kind"].values == ("a", "b")
    assert asked[attributes("items")]["key"].table == "item"

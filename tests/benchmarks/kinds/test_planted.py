from benchmarks.kinds.arms import restricted
from benchmarks.kinds.planted import ARMS, KNOWN, page
from benchmarks.kinds.runs import Row
from benchmarks.kinds.world import KINDS, WorldConfig, schema_of


def test_arms_keep_what_they_know() -> None:
    assert list(ARMS) == list(KNOWN)
    for name, arm in ARMS.items():
        assert set(arm.kept) == {KINDS[kind] for kind in KNOWN[name]} >= set(arm.numbers)
        restricted(schema_of(WorldConfig()), arm.kept)


def test_the_page_has_every_arm_that_ran() -> None:
    lines = list(page([Row(name, 1, 0.7, 0.5, 0.8) for name in ("ids alone", "time of day")], WorldConfig()))
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| ids alone", "| time of day"]

from dist_rec.data.filter.actions import ALL_REASONS, Action, Reason


def test_bits_and_order_are_those_of_files() -> None:
    """Columns `reason` hold the bits, and recipes count on the order of the actions."""
    assert {reason.name: int(reason) for reason in Reason} == {
        "PRIVACY": 1,
        "UNLEARN": 2,
        "BOT": 4,
        "SENSITIVE": 8,
        "LOW_QUALITY": 16,
    }
    assert ALL_REASONS == 31
    assert [action.name for action in sorted(Action)] == ["KEEP", "MASK", "HIDE", "KEYMASK", "DROP"]

from dist_rec.common.errors import RunError


def test_it_is_an_error_with_a_sentence() -> None:
    assert issubclass(RunError, RuntimeError) and str(RunError("why")) == "why"

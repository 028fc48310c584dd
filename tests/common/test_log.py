import logging
import warnings
from collections.abc import Iterator

import pytest

from dist_rec.common.log import setup_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger("dist_rec")
    handlers, propagate = root.handlers[:], root.propagate
    levels = {name: logging.getLogger(name).level for name in ("dist_rec", "torchrec", "torch.fx")}
    with warnings.catch_warnings():
        yield
    root.handlers[:], root.propagate = handlers, propagate
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(("rank", "said"), [(0, ["info", "warning"]), (3, ["warning"])])
def test_rank_0_speaks_and_the_others_warn(rank: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(rank)
    log = logging.getLogger("dist_rec.training.loop")
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert not captured.out and [line.split(" ", 1)[1] for line in lines] == [
        f"[{rank}] dist_rec.training.loop: {text}" for text in said
    ]


def test_a_second_call_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(0)
    setup_logging(0)
    logging.getLogger("dist_rec").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_other_libraries_are_left_alone() -> None:
    before = logging.getLogger().handlers[:]
    setup_logging(0)
    assert logging.getLogger().handlers == before


def test_libraries_advice_is_silenced_and_their_errors_are_not() -> None:
    setup_logging(0)
    planner = logging.getLogger("torchrec.distributed.planner")
    assert not planner.isEnabledFor(logging.WARNING) and planner.isEnabledFor(logging.ERROR)
    with warnings.catch_warnings(record=True) as caught:
        for module in (
            "torchrec.distributed.embedding",
            "torch.distributed.checkpoint.planner_helpers",
            "dist_rec.training.loop",
        ):
            warnings.warn_explicit("advice", FutureWarning, f"{module}.py", 1, module=module, registry={})
    assert [warning.filename for warning in caught] == ["dist_rec.training.loop.py"]

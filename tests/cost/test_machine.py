"""A described machine: what is between its entries, and what a user hears who asks for more."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError
from dist_rec.cost.machine import MACHINES, machine_of, read_machine

CPU = machine_of("cpu2")
TABLE = {8: 1e9, 32: 4e9, 128: 2e9}
TABLED = CPU.model_copy(update={"flops": {"fp32": TABLE}})


@pytest.mark.parametrize(("dim", "rate"), [(1, 1e9), (8, 1e9), (16, 2e9), (32, 4e9), (128, 2e9), (4096, 2e9)])
def test_rates_are_on_lines_between_entries_and_level_beyond(dim: int, rate: float) -> None:
    assert TABLED.flops_of("matmul", "fp32", dim) == pytest.approx(rate)


@given(st.floats(0.1, 1e4))
def test_a_rate_is_never_outside_of_its_table(dim: float) -> None:
    rate = TABLED.flops_of("matmul", "fp32", dim)
    assert min(TABLE.values()) * 0.999 <= rate <= max(TABLE.values()) * 1.001


def test_the_share_that_is_reached_counts() -> None:
    h100 = machine_of("h100-80gb")
    assert h100.bytes_of("stream", 1e6) == pytest.approx(h100.bytes_reached * 3.35e12)
    assert h100.flops_of("matmul", "bf16", 64) == pytest.approx(h100.flops_reached * 989e12)


@pytest.mark.parametrize("name", MACHINES)
def test_a_file_gives_the_same_machine(name: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(MACHINES[name].model_dump(mode="json")))
    assert read_machine(path) == MACHINES[name]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gpu h100: expected one of h100-80gb, h200, .*; --machine"):
        machine_of("h100")
    with pytest.raises(ConfigError, match="bench_cost ceilings"):
        read_machine(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="flops has no bf16; there are: fp32"):
        TABLED.flops_of("matmul", "bf16", 8)
    with pytest.raises(ConfigError, match="bytes_per_s has no sort; there are: none"):
        CPU.model_copy(update={"bytes_per_s": {}}).bytes_of("sort", 1)
    (tmp_path / "wrong.yaml").write_text("name: mine\nlaunch_s: -1\n")
    with pytest.raises(ConfigError, match=r"launch_s: .*greater than 0(?s:.*)|flops: Field required"):
        read_machine(tmp_path / "wrong.yaml")

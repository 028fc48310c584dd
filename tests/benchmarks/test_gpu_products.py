import pytest
import torch

from benchmarks import gpu_products


def test_a_rehearsal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_products, "CALLS", 5)
    gpu_products.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 3 + 1 and all(line.endswith("us") for line in lines)


def test_every_call_sees_its_rows() -> None:
    seen: list[int] = []
    times = gpu_products.host_us(lambda x: seen.append(len(x)), torch.zeros(9, 2), [3, 9, 1])
    assert seen == [3, 9, 1] and len(times) == 3 and min(times) > 0

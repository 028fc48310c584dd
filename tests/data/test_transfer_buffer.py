import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data import transfer_buffer
from dist_rec.data.transfer_buffer import ALIGNMENT, TransferBuffer, restore_ids, shrink_ids

TENSORS = {
    "bytes": torch.arange(5, dtype=torch.uint8),
    "none": torch.zeros(0, dtype=torch.int64),
    "table": torch.randn(3, 2),
    "number": torch.tensor(2.5),
    "wide": torch.tensor([2**62, -1]),
    "flags": torch.tensor([True, False, True]),
    "apart": torch.arange(8)[::3],
    "spread": torch.tensor([7], dtype=torch.int16).as_strided((1,), (0,)),
}


def test_gives_back_what_went_in() -> None:
    sent = TransferBuffer.of(TENSORS)
    for name, tensor in TENSORS.items():
        assert sent[name].dtype == tensor.dtype and torch.equal(sent[name], tensor)
    assert (
        sent.get("table") is not None
        and sent.get("chair") is None
        and list(sent) == list(TENSORS)
        and len(sent) == len(TENSORS)
    )


def test_is_one_buffer_without_waste() -> None:
    sent = TransferBuffer.of(TENSORS)
    start = sent.buffer.data_ptr()
    assert all(start <= sent[name].data_ptr() <= start + sent.nbytes for name in TENSORS if name != "none")
    assert sent.nbytes < sum(tensor.nbytes for tensor in TENSORS.values()) + ALIGNMENT * len(TENSORS)


def test_what_lies_between_tensors_is_zero() -> None:
    """Equal batches are equal bytes."""
    made = TransferBuffer.of({"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2), "c": torch.ones(1)})
    assert made.buffer[3:16].tolist() == [0] * 13 and made.buffer[24:32].tolist() == [0] * 8


def test_maps_the_buffer_alone() -> None:
    sent = TransferBuffer.of(TENSORS)
    moved: list[int] = []
    there = sent.map(lambda buffer: moved.append(buffer.nbytes) or buffer.to("meta"))
    assert moved == [sent.nbytes]
    assert there["table"].is_meta and there["table"].shape == (3, 2)


def test_views_share_the_buffer() -> None:
    sent = TransferBuffer.of(TENSORS)
    sent["number"].fill_(7.0)
    assert float(sent["number"]) == 7.0


def test_no_tensors() -> None:
    assert TransferBuffer.of({}).nbytes == 0


@pytest.mark.parametrize(
    ("num_values", "dtype"),
    [
        *((1, torch.uint8), (2**8, torch.uint8), (2**8 + 1, torch.int16), (2**16, torch.int16)),
        *((2**16 + 1, torch.int32), (2**31, torch.int32), (2**31 + 1, torch.int64)),
    ],
)
def test_the_smallest_integer_that_holds_a_table(num_values: int, dtype: torch.dtype) -> None:
    ids = torch.tensor([0, num_values // 2, num_values - 1])
    assert shrink_ids(ids, num_values).dtype == shrink_ids(ids).dtype == dtype
    assert torch.equal(restore_ids(shrink_ids(ids, num_values)), ids)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 70_000), max_size=20))
def test_any_ids_come_back(ids: list[int]) -> None:
    wide = torch.tensor(ids, dtype=torch.int64)
    assert torch.equal(restore_ids(shrink_ids(wide)), wide)


class _Memory:
    """What os.statvfs says of shared memory."""

    f_frsize = 4096

    def __init__(self, free: int, size: int = 2**16) -> None:
        self.f_bavail, self.f_blocks = free // 4096, size // 4096


def _send(sent: TransferBuffer) -> TransferBuffer:
    """To another process: here, of this one."""
    return pickle.loads(ForkingPickler.dumps(sent))


def _made() -> TransferBuffer:
    return TransferBuffer.of({"a": torch.arange(1000), "b": torch.ones(3)})


@pytest.mark.parametrize(("free", "shared"), [(2**16, True), (2**15, True), (2**14, False), (0, False)])
def test_a_buffer_needs_room_in_shared_memory(
    free: int, shared: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: _Memory(free))
    transfer_buffer._warn_of_little_room.cache_clear()
    sent = _made()
    for _ in range(2):
        came = _send(sent)
        assert torch.equal(came.buffer, sent.buffer) and came.slots == sent.slots
        assert came.buffer.is_shared() is shared
        came["b"].fill_(2.0)  # the trainer writes into it
    assert len(caplog.records) == (not shared)
    if not shared:
        assert all(word in caplog.text for word in ("/dev/shm", "--shm-size", "data.workers=0"))


def test_shared_memory_without_a_limit_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: _Memory(0, size=0))
    assert _send(_made()).buffer.is_shared()


@pytest.mark.parametrize("error", [OSError("no such file system"), None])
def test_what_shared_memory_refuses_goes_through_the_pipe(
    error: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error or RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(os if error else torch.Tensor, "statvfs" if error else "share_memory_", refuse)
    sent = _made()
    came = _send(sent)
    assert torch.equal(came.buffer, sent.buffer) and not came.buffer.is_shared()

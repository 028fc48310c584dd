from pathlib import Path

import numpy as np
import pytest

from dist_rec.data.files import RowGroup
from dist_rec.data.plan import EventPlan, Plan, RowPlan
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema
from dist_rec.data.stages import StagedPlan
from tests.training.runs import write_dataset

SIZES = {"w0": [8, 5], "w1": [20], "w2": [3, 3, 3]}


def plans(kind: type[Plan], epochs: int, workers: int, world_size: int) -> list[Plan]:
    return [
        kind(
            [RowGroup(Path(name), index, rows, rows * 3) for index, rows in enumerate(sizes)],
            world_size=world_size,
            workers=workers,
            most=4,
            epochs=epochs,
            seed=1,
        )
        for name, sizes in SIZES.items()
    ]


@pytest.mark.parametrize("kind", [RowPlan, EventPlan])
@pytest.mark.parametrize(("epochs", "workers", "world_size"), [(1, 1, 1), (2, 2, 1), (3, 1, 2)])
def test_every_step_is_one_of_its_stage(kind: type[Plan], epochs: int, workers: int, world_size: int) -> None:
    of_stages = plans(kind, epochs, workers, world_size)
    whole = StagedPlan(of_stages)
    assert whole.ends == np.cumsum([epochs * plan.steps for plan in of_stages]).tolist()
    assert whole.total == whole.ends[-1] == epochs * whole.steps and whole.workers == workers
    step = 0
    for stage, plan in enumerate(of_stages):
        for epoch in range(epochs):
            for place in range(plan.steps):
                number, at = whole.locate(step)
                assert (number, at) == (stage * epochs + epoch, place)
                assert whole.epoch(number).batch(at) == plan.epoch(epoch).batch(place)
                step += 1
    assert step == whole.total and 0 <= whole.empty_share < 1


def test_a_reader_goes_through_its_folders_in_turn_and_resumes_anywhere(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", SIZES)
    schema = load_schema(data)

    def reader() -> RequestReader:
        return RequestReader(
            folders=[data / name for name in SIZES], schema=schema, batch_size=4, shuffle_window=64, one_by_one=True
        )

    batches = list(reader())
    rows = [batch.num_requests for batch in batches]
    ends = reader().plan(0).ends
    assert [sum(rows[start:end]) for start, end in zip([0, *ends], ends)] == [13, 20, 9]
    for done in (1, ends[0], ends[1] + 1):
        again = reader()
        again.load_state_dict({"emitted": done, "settings": again.state_dict()["settings"]})
        left = list(again)
        assert len(left) == len(batches) - done
        assert all(
            one.tensors["labels"].equal(other.tensors["labels"]) or one.tensors["labels"].isnan().any()
            for one, other in zip(left, batches[done:], strict=True)
        )

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.data.files import RowGroup
from dist_rec.data.plan import EventPlan, Plan, RowPlan
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema
from dist_rec.data.stages import StagedPlan
from dist_rec.data.targets import Targets
from dist_rec.data.writer import write_split
from tests.data.later import later_rows, later_schema
from tests.data.requests import make_dataset, make_schema, make_table
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


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_folder_has_what_was_known_when_it_was_trained_on(tmp_path: Path, epochs: int) -> None:
    schema = later_schema(feedback=None)
    names, moments = ("w0", "w1", "w2"), (1_150, 1_180, 1_290)
    for seed, name in enumerate(names):
        write_split(tmp_path / name, make_table(later_rows(12, seed), schema), schema, rows_per_group=4)
    folders = [tmp_path / name for name in names]
    known = [Targets(now=moment, corrected=True) for moment in moments]

    def reader(folders: list[Path], targets: Any, one_by_one: bool) -> RequestReader:
        return RequestReader(
            folders=folders, schema=schema, batch_size=5, epochs=epochs, targets=targets, one_by_one=one_by_one
        )

    whole = list(reader(folders, known, True))
    apart = [batch for at, of in zip(folders, known, strict=True) for batch in reader([at], of, False)]
    assert len(whole) == len(apart)
    for one, other in zip(whole, apart, strict=True):
        assert one.num_targets == other.num_targets
        for name in ("labels", "observed", "waited"):
            torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=0, atol=0, equal_nan=True)
    early = list(reader(folders, known[:1] * 3, True))
    final = [[int((~batch.tensors["labels"].isnan()).sum()) for batch in of] for of in (early, whole)]
    assert sum(final[0]) < sum(final[1])


def test_targets_of_other_folders_are_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, rows=8)
    for targets, one_by_one, said in (
        ([Targets(), Targets()], True, "expected one for each of 1 folders that are read one by one, got 2"),
        ([Targets()], False, "got 1, one_by_one=False"),
    ):
        with pytest.raises(ConfigError, match=said):
            RequestReader(
                folders=[data / "train"], schema=make_schema(), batch_size=4, targets=targets, one_by_one=one_by_one
            )

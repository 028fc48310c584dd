"""The batches of a split: shuffled and repeated for training, in file order otherwise, and the steps that they make."""

from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.schema import load_schema
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import evaluation_loader, open_split, training_loader, training_steps
from tests.training.runs import make_config


def test_training_is_shuffled_and_evaluation_is_in_file_order(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config, schema = make_config(data, tmp_path, run={"epochs": 2}), load_schema(data)
    train = open_split(config, schema, alone, ["train"], train=True)
    batches = [batch.tensors["grouping_key"].tolist() for batch in training_loader(config, train)]
    assert [len(batch) for batch in batches] == [8] * 12
    users = [user for batch in batches for user in batch]
    assert sorted(users) == sorted(2 * list(range(48))) and users[:48] != sorted(users[:48])
    again = [batch.tensors["grouping_key"].tolist() for batch in evaluation_loader(config, schema, alone, ["train"])]
    assert [user for batch in again for user in batch] == list(range(48))
    assert max(map(len, again)) == config.data.eval_batch_size


def test_steps_are_whole_updates_and_at_most_those_asked_for(data: Path, tmp_path: Path, alone: Ranks) -> None:
    def steps(epochs: int, at_most: int | None, per_update: int) -> int:
        changes = {"run": {"epochs": epochs, "max_steps": at_most}, "optim": {"accumulation_steps": per_update}}
        config = make_config(data, tmp_path, **changes)
        return training_steps(config, open_split(config, load_schema(data), alone, ["train"], train=True))

    assert [steps(1, None, 1), steps(2, None, 1), steps(2, 7, 1), steps(1, 100, 1), steps(1, None, 4)] == [6, 12, 7, 6, 4]
    with pytest.raises(ConfigError, match=r"optim\.accumulation_steps=7: the run has only 6 batches"):
        steps(1, None, 7)

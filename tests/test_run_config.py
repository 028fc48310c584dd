"""Settings of a run that exclude each other."""

import pytest
from pydantic import ValidationError

from dist_rec.run_config import CheckpointConfig, InitConfig, RunConfig


def test_what_is_kept_beside_needs_what_is_deleted() -> None:
    assert CheckpointConfig(keep_last=2, keep_every=10).keep_every == 10
    with pytest.raises(ValidationError, match="keep_every=10 says what keep_last does not delete; expected keep_last"):
        CheckpointConfig(keep_every=10)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_run_has_the_name_of_a_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="expected the name of one folder"):
        RunConfig(name=name)


def test_a_listener_is_named_by_its_path() -> None:
    assert RunConfig.model_validate({"listeners": ["package.module:Name"]}).listeners[0].name == "package.module:Name"
    with pytest.raises(ValidationError, match="no listener named 'wandb'"):
        RunConfig.model_validate({"listeners": ["wandb"]})


def test_seeds_differ_and_patience_needs_a_choice() -> None:
    with pytest.raises(ValidationError, match="seeds must differ"):
        RunConfig(seeds=[1, 1])
    with pytest.raises(ValidationError, match="patience=2 counts evaluations without a better one"):
        RunConfig(patience=2)


def test_a_name_and_what_it_is_called_now_have_as_many_stars() -> None:
    assert InitConfig(checkpoint="a", rename={"model.*.x": "model.*.y"}).rename
    with pytest.raises(ValidationError, match=r"rename: expected as many \* in both names, got 'model.\*': 'model.y'"):
        InitConfig(checkpoint="a", rename={"model.*": "model.y"})

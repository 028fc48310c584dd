"""Whole runs on a GPU, from the reader to the optimizer: the losses of the CPU, the same bits every time, no kernel
compiled late, and no step that waits for the GPU."""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from dist_rec.common.choices import DenseUpdate
from dist_rec.config import Config, OptimConfig
from dist_rec.cost.ledger import kernels_of_a_gpu
from dist_rec.data.collate import collate
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.models.ranker import Ranker
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training import setup
from dist_rec.training.optimizers import dense_factory
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.devices import DEVICES, no_waiting, one_rank
from tests.helpers.exact_bf16 import exact_bf16
from tests.models.batches import DIM, MODELS, model_config
from tests.training.runs import assert_same_weights, losses, make_config, rows, run, saved_weights, write_dataset

STEPS, START = 8, 2
# GPUs add in other orders than CPUs, hundreds of times in a step; one rounding of every weight is the unit.
NUDGES, FACTOR = 4, 16.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data")


def _config(data: Path, out: Path, model: str, /, **changes: Any) -> Config:
    return make_config(data, out, model=MODELS[model], run={"epochs": 2, "max_steps": STEPS}, **changes)


def _compute_in(half: bool) -> Any:
    """The precision `auto`, which a checkpoint is of, means bf16 here, or fp32, on every device."""
    return mock.patch.object(Ranker, "_is_half", lambda _, part, device: half and part != "head")


class CpuCurves:
    """Losses on the CPU after step 2, from the weights, the optimizer and the position that were saved there."""

    def __init__(self, data: Path, out: Path, model: str) -> None:
        self.data, self.out, self.model = data, out, model
        with one_rank("cpu") as ranks:
            run(self.config(checkpoint={"every_steps": START}), ranks, "whole")
            self.plain = np.array(self.losses(ranks, "plain"))
            self.half = np.array(self.losses(ranks, "half", half=True))
            nudged = []
            for seed in range(NUDGES):
                with mock.patch.object(setup, "load_checkpoint", _nudging(setup.load_checkpoint, seed)):
                    nudged.append(self.losses(ranks, f"nudged-{seed}"))
        self.rounding = np.abs(np.array(nudged) - self.plain).max()
        assert 0 < self.rounding < 1e-4 < np.abs(self.half - self.plain).max() < 0.1, "what the tolerances are made of"

    def config(self, **changes: Any) -> Config:
        return _config(self.data, self.out, self.model, data={"valid": [], "test": []}, **changes)

    def losses(self, ranks: Ranks, folder: str, *, half: bool = False) -> list[float]:
        """Of a run that goes on after step 2, on any device, in fp32 or in bf16."""
        config = self.config()
        with _compute_in(half):
            run(config, ranks, folder, resume=self.out / "whole" / "checkpoints" / f"step-{START}")
        assert len(losses(config, folder)) == STEPS - START
        return losses(config, folder)


def _nudging(load: Any, seed: int) -> Any:
    """Every weight, of the tables too, a last bit larger or smaller than it was saved."""

    @torch.no_grad()
    def nudged(checkpoint: Path, model: nn.Module, *rest: Any) -> None:
        load(checkpoint, model, *rest)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            ends = torch.where(torch.rand(parameter.shape, generator=generator) < 0.5, -torch.inf, torch.inf)
            parameter.copy_(torch.nextafter(parameter.detach(), ends))

    return nudged


@pytest.fixture(scope="module")
def curves(data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> CpuCurves:
    return CpuCurves(data, tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("curves", ["longer", "hyformer"], indirect=True)
@pytest.mark.parametrize("device", DEVICES)
def test_losses_are_those_of_the_cpu(curves: CpuCurves, device: str) -> None:
    with one_rank(device) as ranks:
        found = np.array(curves.losses(ranks, device))
        half = np.array(curves.losses(ranks, f"{device}-half", half=True))
    assert np.abs(found - curves.plain).max() <= FACTOR * curves.rounding
    assert np.abs(half - curves.plain).max() <= 2 * np.abs(curves.half - curves.plain).max(), "as close as bf16 here"


@pytest.mark.slow
@pytest.mark.parametrize("curves", ["longer", "hyformer"], indirect=True)
def test_the_tolerance_is_that_of_other_kernels(curves: CpuCurves) -> None:
    """The kernels that a GPU runs, in Triton's interpreter: other orders of every sum, and no further away."""
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled here; the other tests compare them")
    with one_rank("cpu") as ranks, kernels_of_a_gpu(), exact_bf16():
        found = np.array(curves.losses(ranks, "interpreted"))
        half = np.array(curves.losses(ranks, "interpreted-half", half=True))
    assert 0 < np.abs(found - curves.plain).max() <= FACTOR * curves.rounding
    assert np.abs(half - curves.plain).max() <= 2 * np.abs(curves.half - curves.plain).max()


@pytest.mark.parametrize(("deterministic", "update"), [(False, "delayed"), (False, "sync"), (True, "delayed")], ids=str)
@pytest.mark.parametrize("model", ["longer", "hyformer"])
@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_give_the_same_bits(
    data: Path,
    tmp_path: Path,
    device: str,
    model: str,
    deterministic: bool,
    update: DenseUpdate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And every kernel is there before the first step, whatever candidates its batches have."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # older versions of torch ask for it, and say so
    config = _config(data, tmp_path, model, optim={"dense_update": update})
    config = config.model_copy(update={"run": config.run.model_copy(update={"deterministic": deterministic})})
    try:
        with one_rank(device) as ranks, caplog.at_level(logging.WARNING):
            for folder in ("first", "second"):
                run(config, ranks, folder)
    finally:
        torch.use_deterministic_algorithms(False)
    assert "is compiled in the middle of training" not in caplog.text
    assert losses(config, "first") == losses(config, "second") and len(losses(config, "first")) == STEPS
    for split in ("valid", "test"):
        assert rows(config, "first", split) == rows(config, "second", split) != []
    assert_same_weights(saved_weights(config, "first"), saved_weights(config, "second"))


@pytest.mark.parametrize("update", ["sync", "delayed"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("model", ["longer", "hyformer"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_waits_for_nothing(device: str, model: str, optimizer: str, update: DenseUpdate) -> None:
    """Forward, loss, backward and update, with clipping, skipping and measuring."""
    schema = make_schema()
    packed = collate(make_table(make_rows(20), schema), schema)
    with ExitStack() as stack:
        ranks = stack.enter_context(one_rank(device))
        ranker = Ranker(schema, model_config(**MODELS[model]), dict.fromkeys(schema.tables, DIM)).to(device)
        config = OptimConfig(optimizer=optimizer)
        hybrid = HybridOptimizer(
            ranker,
            dense_factory(config),
            dense_update=update,
            warmup_sync_steps=1,
            clip_norm=1.0,
            health_every=2,
            group=ranks.dense_group,
        )
        batch = packed.to(ranks.device)
        unique = {
            name: torch.randn(packed.num_unique[of.keys[0]], DIM * len(of.keys)).to(device).requires_grad_()
            for name, of in schema.layout.feature_sets.items()
        }
        loss = BinaryCrossEntropy(BinaryCrossEntropy.Config())
        found = []
        for step in range(6):
            if step == 2:  # what is made once was made: kernels, state of the optimizer, communicators
                stack.enter_context(no_waiting(device))
            hybrid.zero_grad()
            logits = ranker(unique, batch)
            value = total_loss(loss, logits, batch.labels, batch.candidates_per_rank)
            value.backward()
            hybrid.step()
            found.append(value.detach())
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        assert hybrid.steps == 6 and torch.stack(found).isfinite().all() and found[-1] < found[0]

"""What the dense part of a model takes on every rank: weights, gradients, optimizer state, and what a step makes.

Counted from the recipe's own operators: for a GPU on tensors without values, for a CPU on a step that runs here, since
what it does depends on values.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_rec.config import Config, OptimConfig
from dist_rec.cost.ledger import as_on_a_gpu
from dist_rec.cost.live import LiveBytes
from dist_rec.cost.stages import made_ranker, made_rows, optimizers_of, trained, with_precision
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import build_replicated
from dist_rec.kernels.common.native import told_of_calls
from dist_rec.models.layers.loss import total_loss
from dist_rec.registry import LOSSES
from dist_rec.training.freeze import is_frozen


@dataclass(frozen=True)
class DenseMemory:
    """Bytes of a rank: `weights`, `gradients` of those that are trained, what is `in_flight` between ranks, optimizer
    `state`, and `activations`: what a step of the batch has at its fullest moment beyond the gradients; and the number
    of trained `parameters`."""

    weights: int
    gradients: int
    in_flight: int
    state: int
    activations: int
    parameters: int


def dense_memory(config: Config, schema: Schema, batch: HostBatch, *, on_gpu: bool) -> DenseMemory:
    """Of one rank whose step has this batch. On a GPU what is `auto` in the recipe is bf16."""
    config = with_precision(config, half=on_gpu)
    weights, gradients, state, parameters = _standing(config, schema)
    fullest = _fullest(config, schema, batch, on_gpu=on_gpu)
    stay = config.optim.accumulation_steps > 1  # gradients are there when a forward starts
    return DenseMemory(
        weights=weights,
        gradients=gradients,
        in_flight=in_flight_bytes(config.optim, gradients),
        state=state,
        activations=fullest if stay else max(fullest - gradients, 0),
        parameters=parameters,
    )


def in_flight_bytes(config: OptimConfig, gradients: int) -> int:
    """Buffers that `optim/delayed.py` reduces gradients in: two with a step of delay, one without (or DDP's own);
    compressed ones are half as large and keep a residual in fp32, and one more copy while gradients are applied."""
    buffers = 2 if config.dense_update == "delayed" else 1
    return gradients * buffers if config.compress == "none" else gradients * buffers // 2 + 2 * gradients


def _standing(config: Config, schema: Schema) -> tuple[int, int, int, int]:
    """Bytes of weights, of gradients and of optimizer state, once there is a state, and the number of trained
    parameters."""
    cpu = torch.device("cpu")
    with FakeTensorMode():
        ranker, replicated = made_ranker(schema, config), build_replicated(schema, config.embedding, cpu)
        for name, weight in replicated.named_parameters():
            weight.requires_grad_(not is_frozen(f"embedding.replicated.{name}", config))
        modules = nn.ModuleList([ranker, replicated])
        parameters = trained(modules)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        optimizers = optimizers_of(parameters, config)
        for optimizer in optimizers:
            optimizer.step()
        kept = [x for optimizer in optimizers for of in optimizer.state.values() for x in _tensors(of)]
        state = sum(x.nbytes for x in kept)
    gradients = sum(p.nbytes for p in parameters)
    corrected = gradients if config.optim.correction != "none" else 0
    return sum(p.nbytes for p in modules.parameters()), gradients, state + corrected, len(parameters)


def _tensors(state: dict[str, object]) -> Iterator[Tensor]:
    yield from (x for x in state.values() if isinstance(x, Tensor))


def _fullest(config: Config, schema: Schema, batch: HostBatch, *, on_gpu: bool) -> int:
    """Bytes beyond weights, state, batch and looked-up rows: of forward and backward, and of the update after them.
    Gradients are among them, unless those of earlier batches are added up."""
    loss, live = LOSSES.make(config.model.head.loss), LiveBytes()
    with _device(on_gpu):
        there = batch.to(torch.device("cpu"))  # lengths have values on the host
    with ExitStack() as inside:
        if on_gpu:
            inside.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        inside.enter_context(_device(on_gpu))
        ranker = made_ranker(schema, config)
        rows = made_rows(schema, config, batch)
        for weight in trained(ranker) if config.optim.accumulation_steps > 1 else ():
            weight.grad = torch.zeros_like(weight)
        for of in rows.values():
            of.detach().zero_()
        with told_of_calls(live.hear), live:
            logits = ranker(rows, there)[:, : there.labels.shape[1]]  # a correction of delay has more scores
            total_loss(loss, logits, there.labels, there.candidates_per_rank).backward()
        del logits, rows
        optimizers = optimizers_of(trained(ranker), config, on_gpu=on_gpu)
        for each in optimizers:
            each.step()  # makes its state
        with live:
            for each in optimizers:
                each.step()
    return live.peak()


@contextmanager
def _device(on_gpu: bool) -> Iterator[None]:
    if not on_gpu:
        yield
        return
    with as_on_a_gpu():
        yield

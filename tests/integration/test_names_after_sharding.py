"""Under a stock `DistributedModelParallel`, a wrapped collection has the names and the states that the plain one
has."""

import copy
import itertools
import logging
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from dist_rec.data.dedup_loader import DedupLoader
from tests.helpers.ranks import run_ranks
from tests.integration.jobs import bags, batches, model, sequences, shard, sharders, wrapped

WAYS = ("table_wise", "row_wise", "column_wise", "mixed")


def _names(dmp: DistributedModelParallel) -> dict[str, Any]:
    states = dmp.fused_optimizer.state_dict()["state"]
    return {
        "state_dict": set(dmp.state_dict()),
        "parameters": {name: p.shape for name, p in dmp.named_parameters()},
        "buffers": set(dict(dmp.named_buffers())),
        "of the module": [name for name, _ in dmp.module.named_parameters()],
        "its buffers": set(dict(dmp.module.named_buffers())),
        "fused": set(dmp.fused_optimizer.params),
        "states": {name: sorted(state) for name, state in states.items()},
        "sharded": set(DistributedModelParallel._sharded_parameter_names(dmp._dmp_wrapped_module)),
    }


def _differences() -> list[str]:
    logging.disable()
    found = []
    for pooled in (False, True):
        for way in WAYS:
            expected = _names(shard(model(pooled, "none"), way))
            assert len(expected["states"]) >= 1 and expected["fused"] and expected["sharded"]
            for dedup in ("host", "device"):
                dmp = shard(model(pooled, dedup), way)
                for kind, names in _names(dmp).items():
                    if names != expected[kind]:
                        found.append(f"{way}, pooled {pooled}, {dedup}: {kind}: {names}, not {expected[kind]}")
                found += _of_a_copy(dmp, set(expected["parameters"]))
    return found


def _of_a_copy(dmp: DistributedModelParallel, expected: set[str]) -> list[str]:
    """Names that were given to a sharded module stay those of a copy, and give its own parameters."""
    # What TorchRec's sharded_model_copy does for NCCL's groups, which a CPU build does not know.
    torch.distributed.ProcessGroup.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]
    twin = copy.deepcopy(dmp)
    shared = {id(p) for p in twin.parameters()} & {id(p) for p in dmp.parameters()}
    return [] if set(dict(twin.named_parameters())) == expected and not shared else ["a copy is not whole"]


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_every_name_is_that_of_the_plain_job(world_size: int) -> None:
    for complaints in run_ranks(_differences, world_size):
        assert not complaints, "\n".join(complaints)


def _tables_alone() -> list[str]:
    """DDP has nothing to do in a model of wrapped tables only, and must not be asked to."""
    logging.disable()
    found = []
    for make in (sequences, bags):
        dmp = shard(nn.ModuleDict({"ec": wrapped(make(), "host")}))
        found.append(type(dmp._dmp_wrapped_module).__name__)
        names = {*dict(dmp.named_parameters())}
        root = shard(wrapped(make(), "host"))  # the collection is all there is
        found.append("same" if {f"ec.{name}" for name in dict(root.named_parameters())} == names else str(names))
        fused = {f"ec.{name}" for name in root.fused_optimizer.params}
        found.append("same" if fused == {*dmp.fused_optimizer.params} and fused else str(fused))
        twice = wrapped(make(), "host")
        dmp = DistributedModelParallel(
            nn.ModuleDict({"ec": twice, "again": twice}), sharders=sharders()
        )  # TorchRec's plan
        found.append("same" if {*dict(dmp.named_parameters())} == names else str({*dict(dmp.named_parameters())}))
    return found


def test_a_model_of_tables_alone() -> None:
    for found in run_ranks(_tables_alone, 2):
        assert found == ["ModuleDict", "same", "same", "same"] * 2


def _trained(dedup: str, pooled: bool, way: str) -> DistributedModelParallel:
    dmp = shard(model(pooled, dedup), way)
    data: Any = DedupLoader(batches(2)) if dedup == "host" else batches(2)
    for batch in data:
        dmp(batch)[0].backward()
    return dmp


def _pieces(state: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """This rank's pieces of every sharded tensor in a nested state."""
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": pieces for key, pieces in _pieces(value).items()}
        elif hasattr(value, "local_shards"):
            found[name] = [shard.tensor.detach().clone() for shard in value.local_shards()]
    return found


def _exchanged() -> list[str]:
    """Weights and fused states of a trained plain job into a wrapped one that was trained otherwise, and back."""
    logging.disable()
    found = []
    for pooled in (False, True):
        for way in ("table_wise", "row_wise", "column_wise"):
            for source, target in (("none", "host"), ("host", "none")):
                giver, taker = _trained(source, pooled, way), shard(model(pooled, target), way)
                for through in ("state dicts", "DCP"):
                    taker.load_state_dict({name: value for name, value in giver.state_dict().items()})
                    if through == "state dicts":
                        taker.fused_optimizer.load_state_dict(giver.fused_optimizer.state_dict())
                    else:
                        _through_a_checkpoint(giver, taker)
                    for part in (lambda dmp: dmp.state_dict(), lambda dmp: dmp.fused_optimizer.state_dict()):
                        one, other = _pieces(part(giver)), _pieces(part(taker))
                        same = one.keys() == other.keys() and all(
                            torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
                        )
                        if not same or not one:
                            found.append(
                                f"{way}, pooled {pooled}, {source} to {target} by {through}: {sorted(one)}, "
                                f"{sorted(other)}"
                            )
    return found


def _through_a_checkpoint(giver: DistributedModelParallel, taker: DistributedModelParallel) -> None:
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    dcp.save({"model": giver.state_dict(), "optimizer": giver.fused_optimizer.state_dict()}, checkpoint_id=folder[0])
    state = {"model": taker.state_dict(), "optimizer": taker.fused_optimizer.state_dict()}
    for pieces in _pieces(state).values():
        assert all(piece.numel() for piece in pieces)
    dcp.load(state, checkpoint_id=folder[0])
    taker.load_state_dict(state["model"])
    taker.fused_optimizer.load_state_dict(state["optimizer"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_checkpoints_with_their_optimizer_states_go_both_ways(world_size: int) -> None:
    for complaints in run_ranks(_exchanged, world_size):
        assert not complaints, "\n".join(complaints)


def _without_a_table() -> list[str]:
    """What stock bags do after sharding with a state that lacks a table; stock sequences end in a KeyError."""
    logging.disable()
    found = []
    for way in ("table_wise", "row_wise", "column_wise"):
        for pooled, kind in ((False, "embeddings"), (True, "embedding_bags")):
            told = {}
            for dedup in ("none", "host") if pooled else ("host",):
                dmp = shard(model(pooled, dedup), way)
                name = f"{kind}.t0.weight"
                before = _pieces(dmp.state_dict())
                state = {key: value for key, value in dmp.state_dict().items() if not key.endswith(name)}
                told[dedup] = list(dmp.load_state_dict(dict(state), strict=False).missing_keys)
                after = _pieces(dmp.state_dict())
                if not all(torch.equal(a, b) for key in before for a, b in zip(before[key], after[key], strict=True)):
                    found.append(f"{way}, {kind}, {dedup}: weights have changed")
                for whole in (dmp, dmp._dmp_wrapped_module):
                    try:
                        whole.load_state_dict(dict(state))
                        found.append(f"{way}, {kind}, {dedup}: strict, and no error")
                    except RuntimeError as error:
                        if "Missing key" not in str(error) or name not in str(error):
                            found.append(f"{way}, {kind}, {dedup}: {error}")
                inside: Any = dmp.module  # loaded as any module
                names = inside.load_state_dict(inside.state_dict() | {}, strict=False).missing_keys
                lacking = {key: value for key, value in inside.state_dict().items() if not key.endswith(name)}
                names += inside.load_state_dict(lacking, strict=False).missing_keys
                if names != [f"ec.{name}"]:
                    found.append(f"{way}, {kind}, {dedup}: of the module: {names}")
            if told["host"] != told.get("none", [f"{kind}.t0.weight"]):
                found.append(f"{way}, {kind}: {told}")
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_state_without_a_table(world_size: int) -> None:
    for complaints in run_ranks(_without_a_table, world_size):
        assert not complaints, "\n".join(complaints)


def _with_more() -> list[str]:
    """A table that is not in the model, and one of another shape: what stock collections say."""
    logging.disable()
    found = []
    for pooled in (False, True):
        told: dict[str, list[str]] = {}
        for dedup in ("none", "host"):
            dmp = shard(model(pooled, dedup))
            state: Any = dict(dmp.state_dict())
            name = next(key for key in state if ".t0." in key)
            more, other = state | {name.replace("t0", "new"): state[name]}, state | {name: torch.ones(2, 2)}
            told[dedup] = list(dmp.load_state_dict(dict(more), strict=False).unexpected_keys)
            for whole, wrong in itertools.product((dmp, dmp.module), (more, other)):
                try:
                    whole.load_state_dict(dict(wrong))  # DMP changes the dict it is given
                    found.append(f"{pooled}, {dedup}: no error")
                except RuntimeError as error:
                    told[dedup] += str(error).split("\n\t")[1:]
        if told["none"] != told["host"] or len(told["host"]) != 5:
            found.append(f"pooled {pooled}: {told}")
    return found


def test_a_state_with_more_than_the_tables() -> None:
    (complaints,) = run_ranks(_with_more, 1)
    assert not complaints, "\n".join(complaints)

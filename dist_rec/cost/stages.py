"""The stages of a step, and the work of each: launches, bytes and FLOPs, counted from the recipe's own operators.

What a GPU would run is counted on tensors without values, at the size of the batch. What a CPU runs depends on values
(its attention pads requests of similar length together), so steps of a few requests run there and are counted. Their
work is affine in the number of requests, which gives the work of the batch.

A count is of this program, so it follows every change of it. FLOPs by formula (`models/cost.py`) are held against it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_rec.config import Config
from dist_rec.cost.ledger import Ledger, Operator, as_on_a_gpu
from dist_rec.cost.requests import Requests
from dist_rec.cost.steps import TrainingSteps
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.models.layers.event_ngrams import EventNgrams
from dist_rec.models.layers.loss import total_loss
from dist_rec.models.layers.numbers import EventColumns
from dist_rec.models.ranker import Ranker
from dist_rec.optim.muon import BatchedMuon
from dist_rec.registry import LOSSES
from dist_rec.training.freeze import is_frozen
from dist_rec.training.optimizers import dense_factory
from dist_rec.training.ranks import Ranks

# The stages of the device, in order. "layers" has what a model does outside of feed-forward layers: norms, projections,
# attention, places of rows.
STAGES = ("exchange", "lookup", "tokens", "layers", "ffn", "head", "backward", "optimizer")
FFN = ("ffn", "mixer")  # names of feed-forward modules inside a body

# By reading TorchRec 1.8 and `optim/hybrid.py`: launches that the count on tensors without values does not see.
EXCHANGE_LAUNCHES = 35  # input dist, output dist and their backward
LOOKUP_LAUNCHES = 30  # forward and fused update
UPDATE_LAUNCHES = 26  # buckets, norm, clipping


@dataclass(frozen=True)
class StepCount:
    """The operators of a step, and how many numbers the dense parameters are that it trains."""

    operators: tuple[Operator, ...]
    dense: int


def count_on_gpu(config: Config, schema: Schema, batch: HostBatch, *, half: bool) -> StepCount:
    """A step of the batch as a GPU would run it, without one. `half`: what is `auto` in the recipe is bf16.

    Tables are counted from the numbers of their rows: read and written forward, and in the backward read and written
    with their optimizer's state of one number per row, with gradients read once."""
    loss = LOSSES.make(config.model.head.loss)
    with as_on_a_gpu():
        there = batch.to(torch.device("cpu"))  # lengths have values on the host
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu():
        ranker = made_ranker(schema, with_precision(config, half=half))
        rows = made_rows(schema, config, batch)
        with Ledger("head") as ledger, ledger.inside(_stages_of(ranker)):
            logits = ranker(rows, there)[:, : there.labels.shape[1]]  # a correction of delay has more scores
            total_loss(loss, logits, there.labels, there.candidates_per_rank).backward()
        optimizer = optimizers_of(trained(ranker), config)
        for each in optimizer:
            each.step()  # makes its state
        with Ledger("optimizer") as update:
            for each in optimizer:
                each.step()
    row_bytes = sum(x.numel() * x.element_size() for x in rows.values())
    tables = [
        _launches("exchange", EXCHANGE_LAUNCHES, 4 * row_bytes),
        _launches("lookup", LOOKUP_LAUNCHES, 7 * row_bytes),
        _launches("optimizer", UPDATE_LAUNCHES, 16 * _numel(ranker)),  # buckets written, reduced, read; a norm
    ]
    operators = (*ledger.operators, *update.operators, *(each for part in tables for each in part))
    dense = _numel(ranker) + _replicated(schema, config)
    return StepCount(operators, dense)


def count_on_cpu(config: Config, schema: Schema, requests: Requests, ranks: Ranks) -> StepCount:
    """A step as this CPU runs it, from steps of an eighth and of a quarter of its requests; of few requests the step
    itself."""
    sizes = sorted({max(requests.count // 8, 1), max(requests.count // 4, min(requests.count, 2))})
    steps = TrainingSteps.of(config, schema, ranks)
    stages = {steps.model.embedding: "lookup", **_stages_of(steps.model.ranker)}
    counts = []
    for size in sizes:
        batch = requests.first(size).batch(schema, dedup=config.data.dedup)
        counts.append([*steps.count(batch, stages).operators, *_updates(schema, config, batch)])
    times = (requests.count - sizes[-1]) / (sizes[-1] - sizes[0]) if len(sizes) == 2 else 0.0
    dense = _numel(steps.model.ranker) + _replicated(schema, config)
    return StepCount(tuple(grown(counts[0], counts[-1], times)), dense)


def _updates(schema: Schema, config: Config, batch: HostBatch) -> list[Operator]:
    """FBGEMM's fused updates, one for the rows of every key: torch does not see them as operators."""
    dims = table_dims(schema, config.embedding)
    sizes = [
        4 * batch.num_unique[key] * dims[table]
        for key, table in schema.layout.tables.items()
        if not config.embedding.is_replicated(table)
    ]
    return [Operator("backward", "update", "update", nbytes, 0, 0, False) for nbytes in sizes]


def grown(smaller: list[Operator], larger: list[Operator], times: float) -> list[Operator]:
    """The larger count, and `times` what it has more than the smaller one: work is affine in the requests.

    Operators of a stage and name are paired in their order. Where there are more of them in one count, such as calls
    for requests of another length, those of the larger one grow by their sums."""

    def by_name(operators: list[Operator]) -> dict[tuple[str, str], list[Operator]]:
        found: dict[tuple[str, str], list[Operator]] = {}
        for each in operators:
            found.setdefault((each.stage, each.name), []).append(each)
        return found

    def more(before: float, after: float) -> float:
        return max(after + times * (after - before), 0.0)

    found: list[Operator] = []
    before = by_name(smaller)
    for key, after in by_name(larger).items():
        pairs = before.get(key, [])
        if len(pairs) == len(after):
            found += [
                replace(b, nbytes=int(more(a.nbytes, b.nbytes)), flops=int(more(a.flops, b.flops)))
                for a, b in zip(pairs, after)
            ]
            continue
        sums = [[sum(getattr(each, name) for each in of) for of in (pairs, after)] for name in ("nbytes", "flops")]
        by_bytes, by_flops = (more(a, b) / b if b else 1.0 for a, b in sums)
        found += [replace(b, nbytes=int(b.nbytes * by_bytes), flops=int(b.flops * by_flops)) for b in after]
    return found


def _stages_of(ranker: Ranker) -> dict[nn.Module, str]:
    """The stage of every module that begins one."""
    found: dict[nn.Module, str] = {ranker.tokens: "tokens", ranker.pools: "tokens", ranker.head: "head"}
    found |= dict.fromkeys((*ranker.tokens.values(), *ranker.pools.values()), "tokens")
    first = (EventNgrams, EventColumns)  # run before the module that holds them
    found |= {m: "tokens" for m in ranker.tokens.modules() if isinstance(m, first)}
    found |= {m: "tokens" for m in (ranker.attributes, ranker.request, ranker.candidate_numbers) if m is not None}
    found[ranker.body] = "layers"
    for name, module in ranker.body.named_modules():
        if name.rpartition(".")[2] in FFN:
            found[module] = "ffn"
    return found


def with_precision(config: Config, *, half: bool) -> Config:
    """The recipe with bf16 or fp32 in the place of `auto`."""
    precision = config.model.precision
    chosen = {
        part: ("bf16" if half else "fp32") if kind == "auto" else kind for part, kind in precision.model_dump().items()
    }
    model = config.model.model_copy(update={"precision": precision.model_copy(update=chosen)})
    return config.model_copy(update={"model": model})


def made_ranker(schema: Schema, config: Config) -> Ranker:
    """Everything dense but replicated tables; what `init.freeze` names requires no gradient."""
    ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
    for name, weight in ranker.named_parameters():
        if is_frozen(f"ranker.{name}", config):
            weight.requires_grad_(False)
    return ranker


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def made_rows(schema: Schema, config: Config, batch: HostBatch) -> dict[str, Tensor]:
    """By feature set (U, D): the rows that a lookup gives."""
    dims, layout = table_dims(schema, config.embedding), schema.layout
    widths = {name: sum(dims[layout.tables[key]] for key in of.keys) for name, of in layout.feature_sets.items()}
    return {
        name: torch.empty(batch.num_unique[layout.feature_sets[name].keys[0]], width, requires_grad=True)
        for name, width in widths.items()
    }


def optimizers_of(
    parameters: list[nn.Parameter], config: Config, *, on_gpu: bool = True
) -> list[torch.optim.Optimizer]:
    """Of the dense parameters. As a GPU has them: one kernel for all parameters, and Muon's matrices filled up to
    common sizes."""
    made = dense_factory(config.optim)(parameters)
    optimizers = [made] if isinstance(made, torch.optim.Optimizer) else list(made)
    for optimizer in optimizers if on_gpu else ():
        if isinstance(optimizer, BatchedMuon):
            optimizer.fill = True
        for group in optimizer.param_groups:
            if "fused" in group:
                group["fused"] = True
    return optimizers


def _launches(stage: str, count: int, nbytes: int) -> list[Operator]:
    """Operators that were not seen, and share the bytes among them."""
    return [Operator(stage, "by reading", "stream", nbytes // count, 0, 0, False)] * count


def _numel(ranker: Ranker) -> int:
    return sum(p.numel() for p in trained(ranker))


def _replicated(schema: Schema, config: Config) -> int:
    """Numbers of the data-parallel tables that are trained."""
    tables = {name for name in schema.layout.tables.values() if config.embedding.is_replicated(name)}
    return sum(
        schema.rows_of(name) * config.embedding.dim_of(name)
        for name in tables
        if not is_frozen(f"embedding.replicated.{name}.weight", config)
    )

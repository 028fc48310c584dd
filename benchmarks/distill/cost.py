"""A training step with a teacher and without, side by side: processor time, memory of the backward, bytes, worker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.forms import Form, in_turns
from dist_rec.config import Config
from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
from dist_rec.training.ranks import start_ranks

BATCHES, ROUNDS = 6, 7
LENGTHS = {"short": 50, "long": 1_000}  # events of the longest history
FORMS: dict[str, dict[str, Any] | None] = {
    "no teacher": None,
    "live": {},
    "live, tenth of the candidates": {},
    "ema": {"teacher": "ema"},
}
MODELS: dict[str, dict[str, Any]] = {
    "longer": {"longer": {"merge": 1, "inner_trans": False, "k": 32, "heads": 4}},
    "hyformer": {"name": "hyformer", "hyformer": {"heads": 4}},
}


def page() -> Iterator[str]:
    """Lines of the table."""
    yield (
        "One rank on a CPU; batches of 32 requests with 4 candidates that are there. Medians of rounds in turns, in "
        "processor time; kept: what autograd keeps for the backward; worker: a reader's time for the same batches. The "
        "teacher of SDPO (arXiv 2601.20802) costs 6 to 17 % of a step."
    )
    yield from ("", "| model | events of a request | teacher | step | against none | kept | bytes | worker |")
    yield "|---|---|---|---|---|---|---|---|"
    for model in MODELS:
        for most in LENGTHS.values():
            yield from _lines(model, most)


def _lines(model: str, most: int) -> Iterator[str]:
    with TemporaryDirectory() as place:
        data = {share: Path(place) / f"share-{share}" for share in (1.0, 0.1)}
        for share, folder in data.items():
            options = {"requests": 500, "max_length": most, "mean_length": int(0.6 * most), "feedback_share": share}
            synthesize_delayed(folder, DelayedConfig.model_validate(options))
        configs = {
            name: _config(data[0.1 if "tenth" in name else 1.0], model, distill) for name, distill in FORMS.items()
        }
        with start_ranks(next(iter(configs.values())).parallel) as ranks:
            forms = {name: Form.of(config, ranks, BATCHES) for name, config in configs.items()}
            steps = in_turns({name: form.steps for name, form in forms.items()}, ROUNDS)
            reads = in_turns({name: form.read for name, form in forms.items()}, ROUNDS)
            kept = {name: _kept(form) for name, form in forms.items()}
    events = sum(batch.num_events for batch in forms["live"].batches) / sum(
        b.num_requests for b in forms["live"].batches
    )
    base, base_read = median(steps["no teacher"]), median(reads["no teacher"])
    for name, form in forms.items():
        step, nbytes = median(steps[name]), sum(batch.nbytes for batch in form.batches) / len(form.batches)
        yield (
            f"| {model} | {events:.0f} | {name} | {1e3 * step / BATCHES:.1f} ms | {step / base:.2f}x | "
            f"{kept[name] / 2**20:.1f} MiB | {nbytes / 1e3:.1f} kB | {median(reads[name]) / base_read:.2f}x |"
        )


def _config(data: Path, model: str, distill: dict[str, Any] | None) -> Config:
    return Config.model_validate(
        {
            "data": {"path": str(data), "batch_size": 32, "workers": 0},
            "model": {"tokens": {"width": 32, "hidden": 64}, "head": {"hidden": [128]}, **MODELS[model]},
            "embedding": {"dim": 16},
            "optim": {"dense_update": "sync"},
            "distill": distill,
        }
    )


def _kept(form: Form) -> int:
    """Bytes that autograd keeps of the first batch, parameters and what is kept twice not counted."""
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    same: Callable[[Any], Any] = lambda tensor: tensor  # noqa: E731 - what is kept is what is given back
    with torch.autograd.graph.saved_tensors_hooks(keep, same):
        form.model(form.batches[0].to(torch.device("cpu")))
    return sum(seen.values())

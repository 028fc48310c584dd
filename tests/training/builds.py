"""Prints as JSON which kernels a warm-up compiles, and which random batches need besides. In a process of its own."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.aot import recording_driver
from dist_rec.common.seed import seed_everything
from dist_rec.config import Config
from dist_rec.data.collate import Collator
from dist_rec.data.example import ExampleAttributes, example_rows
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.kernels.common.compile_ahead import compiling_ahead, noticing_builds
from dist_rec.models.ranker import Ranker
from dist_rec.training import warm_up
from dist_rec.training.run_log import RunLog
from tests.data.feedback_rows import feedback_schema
from tests.data.kind_rows import kinds_schema
from tests.data.ngram.schemas import SPEC
from tests.data.requests import make_schema

HALF = {"tokens": "bf16", "layers": "bf16", "head": "fp32"}


def _with_ngrams() -> Schema:
    tree = make_schema().model_dump(exclude_defaults=True)
    history = tree["sequences"][0]
    history["ids"] = [{"name": "item", "ngram": SPEC}, "kind"]
    return make_schema(sequences=tree["sequences"])


def main(model: dict[str, Any], teacher: str | None = None, kinds: bool = False, ngrams: bool = False) -> None:
    """With feedback in the schema where there is a teacher, with fields of all `kinds`, or with `ngrams`."""
    launches = recording_driver.install()
    torch.set_num_threads(1)
    seed_everything(0, deterministic=False)
    schema = kinds_schema() if kinds else make_schema() if teacher is None else feedback_schema()
    schema = _with_ngrams() if ngrams else schema
    data = {"path": "nowhere", "batch_size": 64, "hash_ngrams": "device" if ngrams else "auto"}
    tree: dict[str, Any] = {"data": data, "model": {**model, "precision": HALF}}
    if teacher is not None:
        tree["distill"] = {"teacher": teacher}
    config = Config.model_validate(tree)
    device, log = torch.device("cpu"), RunLog(Path("nowhere"), is_main=False)
    with recording_driver.as_on_a_gpu():
        ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
        before = {name: p.detach().clone() for name, p in ranker.named_parameters()}
        state = torch.random.get_rng_state()
        compiled = warm_up.run_without_launches(ranker, schema, config, device, log)
        assert torch.equal(torch.random.get_rng_state(), state)
        kept = all(torch.equal(p, before[name]) and p.grad is None for name, p in ranker.named_parameters())
        later: list[str] = []
        rng = np.random.default_rng(0)
        with noticing_builds(later.append), compiling_ahead(1, log.compiling):
            for _ in range(25):
                requests, events, candidates = rng.integers(1, 321), rng.integers(1, 200), rng.integers(1, 40)
                sizes = {"requests": requests, "events": events, "candidates": candidates}
                distinct = int(rng.integers(1, 2000))

                # Packed anew each time: what follows from kernels that did not run may be written anywhere.
                def packed(known: Schema, sizes: dict[str, Any] = sizes, distinct: int = distinct) -> HostBatch:
                    found = Collator(known, attributes=ExampleAttributes.of(known))(example_rows(known, **sizes))
                    return warm_up.with_ngrams(warm_up.as_hashed_there(found), distinct) if ngrams else found

                warm_up.forward_and_backward(ranker, packed(schema), schema, config, device)
                if teacher is not None:
                    warm_up.forward_alone(ranker, packed(schema), schema, config, device, twins_only=True)
                    warm_up.forward_alone(ranker, packed(schema.as_served()), schema, config, device)
    print(json.dumps({"compiled": compiled, "later": later, "kept": kept, "launched": launches}))


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))

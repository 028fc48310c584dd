"""Exports of small random models for the tests of servers, and requests for them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from dist_rec.common.made import mark
from dist_rec.export.write import KIND
from dist_rec.serve.columns import event_columns, serving_schema
from dist_rec.serve.engine import Engine
from dist_rec.serve.folder import DENSE, MODEL, TABLES, Export, ModelFile, TableFile
from dist_rec.serve.load import load_export
from dist_rec.serve.reference import Reference, as_requests
from tests.data.requests import make_row, make_schema, make_table
from tests.serve.engines import make_engine

SCHEMA = serving_schema(make_schema())
EVENTS = event_columns(SCHEMA)
Request = dict[str, Any]


def make_requests(count: int, seed: int = 0, longest: int = 8, users: int | None = None) -> list[Request]:
    """Each with two candidates or more, and with events of both sequences."""
    rng = np.random.default_rng(seed)
    found: list[Request] = []
    while len(found) < count:
        row = make_row(rng, len(found) if users is None else len(found) % users, longest)
        if min(len(row[name]) for name in ("candidate.item", "history.item", "searches.query")) > 1:
            found.append(as_requests(make_table([row], SCHEMA))[0])
    return found


def write_export(folder: Path, seed: int = 0, requests: int = 20) -> Path:
    """Other seeds, other weights and another version."""
    torch.manual_seed(seed)
    engine, model = make_engine()
    (folder / TABLES).mkdir(parents=True)
    tables = {name: weight.detach() for name, weight in model.tables.weights.items()}
    for name, weight in tables.items():
        save_file({"weight": weight.contiguous()}, folder / TABLES / f"{name}.safetensors")
    save_file({name: of.contiguous() for name, of in model.ranker.state_dict().items()}, folder / DENSE)
    made = ModelFile(
        schema_=engine.schema.model_dump(mode="json"),
        model=model.ranker.config.model_dump(mode="json"),
        max_length=None,
        dedup=True,
        tables={name: TableFile(stored="fp32", rows=len(of), dim=of.shape[1]) for name, of in tables.items()},
    )
    (folder / MODEL).write_text(made.model_dump_json(indent=1) + "\n")
    asked = make_requests(requests, seed=7)
    logits = engine.score_whole(make_table(asked, SCHEMA)).logits.tolist()
    Reference(requests=asked, trainer=logits, exported=logits).write(folder)
    export = Export.of(
        folder, hashlib.sha256(str(seed).encode()).hexdigest(), run="small", step=1, requests=None, versions={}
    )
    export.write(folder)
    mark(folder, KIND)
    return folder


def engine_of(folder: Path) -> Engine:
    return load_export(folder).engine


def whole_scores(engine: Engine, request: Request) -> dict[str, list[float]]:
    """Of a request with all events in it, without anything kept."""
    probabilities = engine.score_whole(make_table([request], SCHEMA)).probabilities
    return dict(zip(SCHEMA.candidate.labels, probabilities.T.tolist(), strict=True))


def close(found: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    return found.keys() == expected.keys() and all(
        np.allclose(found[task], of, rtol=1e-5, atol=1e-5) for task, of in expected.items()
    )


def without_events(request: Request) -> Request:
    return {name: value for name, value in request.items() if name not in EVENTS}


def events_of(request: Request, part: slice = slice(None)) -> Request:
    return {name: request[name][part] for name in EVENTS}


def as_body(*requests: Request) -> bytes:
    return json.dumps({"requests": requests}).encode()


def table_of(requests: list[Request]) -> pa.Table:
    return make_table(requests, SCHEMA)

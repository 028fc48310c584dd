"""Logits of small models, by the lookup of training or as a machine without TorchRec serves them."""

import torch
from torch import Tensor

from dist_rec.config import EmbeddingConfig
from dist_rec.data.collate import Collator
from dist_rec.embedding.tables import table_dims
from dist_rec.models.check import check_model
from dist_rec.models.ranker import Ranker
from dist_rec.predict.columns import More, Scores, key_columns, prediction_table
from dist_rec.predict.rows import valid_rows
from tests.data.kind_rows import kind_rows, kinds_schema, kinds_store
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_schema
from tests.models.batches import MODELS, model_config

CPU = torch.device("cpu")
SCHEMAS = {"plain": make_schema, "n-grams": ngram_schema, "every kind": kinds_schema}


def logits(*, served: bool) -> dict[str, Tensor]:
    """(C, T) of every model on every schema, from the same seed: without TorchRec if they are `served`."""
    return {f"{model}, {kind}": _logits(model, kind, served) for kind in SCHEMAS for model in MODELS}


@torch.no_grad()
def _logits(model: str, kind: str, served: bool) -> Tensor:
    torch.manual_seed(0)
    schema = SCHEMAS[kind]().without_labels()
    dims, layout = table_dims(schema, EmbeddingConfig(dim=8)), schema.layout
    tables = {name: torch.randn(schema.rows_of(name), dim) for name, dim in dims.items()}
    config = model_config(**MODELS[model])
    check_model(schema, config, dims)
    ranker = Ranker(schema, config, dims).eval()
    requests = valid_rows(kind_rows(7) if schema.attributes else make_rows(7), schema)
    sent = Collator(schema, attributes=kinds_store(schema) if schema.attributes else None)(requests)
    if served:
        batch, ids = sent.without_lookup(CPU), {key: sent.ids_of(key) for key in layout.tables}
    else:
        batch = sent.to(CPU)
        ids = {key: of.values() for key, of in batch.unique.to_dict().items()}
    rows = {
        name: torch.cat([tables[layout.tables[key]][ids[key]] for key in of.keys], dim=1)
        for name, of in layout.feature_sets.items()
    }
    found = ranker(rows, batch)
    keys = requests.select(key_columns(schema))
    assert prediction_table(keys, 0, Scores(found, None), schema, More()).num_rows == len(requests)
    return found

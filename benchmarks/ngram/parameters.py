"""How large a recipe's model is, with its tables."""

import torch

from dist_rec.config import Config
from dist_rec.models.build import build_model
from dist_rec.models.cost import dense_params
from dist_rec.training.splits import dataset_schema


def parameters(config: Config) -> tuple[int, int]:
    """All parameters of a recipe's model, and those of n-grams."""
    schema = dataset_schema(config)
    model = build_model(schema, config, torch.device("cpu"))
    tables = {name: sum(p.numel() for p in of.parameters()) for name, of in model.embedding.collections.items()}
    ngrams = sum(count for name, count in tables.items() if name in schema.ngram_tables)
    return sum(dense_params(model.ranker).values()) + sum(tables.values()), ngrams

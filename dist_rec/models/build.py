"""Schema and configuration -> the whole model, as TorchRec's pipeline wants it: embedding first, then everything
else."""

import torch
from torch import Tensor, nn

from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.embedding.unique import TokenEmbedding
from dist_rec.models.check import check_model
from dist_rec.models.objective import Objective
from dist_rec.models.ranker import Ranker


class RankingModel(nn.Module):
    """batch -> (loss (), (loss (), logits (C, T) float32, signals), all detached): what the pipeline differentiates and
    returns.

    The lookup of unique ids is the first statement, so that `TrainPipelineSparseDist` can trace it and start the next
    batch's all-to-all during this batch's compute; ranker and objective are leaves to it.
    """

    def __init__(self, embedding: TokenEmbedding, ranker: Ranker, objective: Objective) -> None:
        super().__init__()
        self.embedding, self.ranker, self.objective = embedding, ranker, objective

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        rows = self.embedding(batch.unique)
        found = self.objective(self.ranker(rows, batch), rows, batch)
        loss, logits, signals = found[0], found[1], found[2]  # unpacked so for the tracer
        return loss, (loss.detach(), logits, signals)


def build_model(schema: Schema, config: Config, device: torch.device) -> RankingModel:
    """The model with its sharded tables on the meta device (sharding creates them) and everything else on `device`.

    Raises ConfigError if the model cannot work on this schema.
    """
    dims = table_dims(schema, config.embedding)
    check_model(schema, config.model, dims)
    ranker = Ranker(schema, config.model, dims).to(device)
    embedding = TokenEmbedding(schema, config.embedding, device)
    return RankingModel(embedding, ranker, Objective(schema, config, ranker, device))

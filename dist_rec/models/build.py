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
from dist_rec.models.layers.loss import Loss, total_loss
from dist_rec.models.ranker import Ranker
from dist_rec.registry import LOSSES


class RankingModel(nn.Module):
    """batch -> (loss (), (loss (), logits (C, T) float32), both detached): what the pipeline differentiates and
    returns.

    The lookup of unique ids is the first statement, so that `TrainPipelineSparseDist` can trace it and start the next
    batch's all-to-all during this batch's compute; the ranker is one leaf to it. `task_weights` (T,) float32 weigh the
    tasks' losses; they belong to the recipe, so no checkpoint holds them.
    """

    task_weights: Tensor

    def __init__(self, embedding: TokenEmbedding, ranker: Ranker, loss: Loss, task_weights: Tensor) -> None:
        super().__init__()
        self.embedding, self.ranker, self.loss = embedding, ranker, loss
        self.register_buffer("task_weights", task_weights, persistent=False)

    def forward(self, batch: SequenceBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows = self.embedding(batch.unique)
        logits = self.ranker(rows, batch)
        loss = total_loss(self.loss, logits, batch.labels, batch.candidates_per_rank, self.task_weights)
        return loss, (loss.detach(), logits.detach().float())


def build_model(schema: Schema, config: Config, device: torch.device) -> RankingModel:
    """The model with its sharded tables on the meta device (sharding creates them) and everything else on `device`.

    Raises ConfigError if the model cannot work on this schema.
    """
    dims = table_dims(schema, config.embedding)
    check_model(schema, config.model, dims)
    ranker = Ranker(schema, config.model, dims).to(device)
    named = config.model.head.task_weights
    weights = torch.tensor(
        [named.get(task, 1.0) for task in schema.candidate.labels], dtype=torch.float32, device=device
    )
    return RankingModel(
        TokenEmbedding(schema, config.embedding, device), ranker, LOSSES.make(config.model.head.loss), weights
    )

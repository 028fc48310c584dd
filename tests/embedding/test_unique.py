import pytest
import torch
from torch import Tensor

from dist_rec.config import EmbeddingConfig
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate, empty_batch
from dist_rec.embedding.unique import TokenEmbedding
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.closeness import assert_close_to_truth

CPU = torch.device("cpu")
ROWS = make_rows(10)
REPLICATED = [(), ("kind",), ("item", "user")]


def _embedding(replicated: tuple[str, ...]) -> TokenEmbedding:
    torch.manual_seed(0)
    tables = {name: {"sharding": ["data_parallel"]} for name in replicated}
    config = EmbeddingConfig.model_validate(
        {"dim": 8, "tables": tables | ({} if "user" in tables else {"user": {"dim": 4}})}
    )
    embedding = TokenEmbedding(make_schema(), config, CPU)
    embedding.collections.to_empty(device="cpu")
    for table in embedding.collections.parameters():
        torch.nn.init.normal_(table.data)
    return embedding


def _table(embedding: TokenEmbedding, name: str) -> Tensor:
    if name in embedding.replicated:
        return embedding.replicated.get_parameter(f"{name}.weight")
    (weight,) = (p for key, p in embedding.collections.named_parameters() if key.endswith(f"embeddings.{name}.weight"))
    return weight


def _plain(embedding: TokenEmbedding, columns: list[str]) -> Tensor:
    """Every event looked up: the ids of `<owner>.<table>` columns, row after row."""
    parts = []
    for column in columns:
        values = [row[column] for row in ROWS]
        ids = [i for value in values for i in (value if isinstance(value, list) else [value])]
        parts.append(_table(embedding, column.split(".")[-1])[ids])
    return torch.cat(parts, dim=1)


def _rebuilt(embedding: TokenEmbedding, batch: SequenceBatch) -> dict[str, Tensor]:
    rows = embedding(batch.unique)
    assert batch.context is not None
    return {
        "context": rows["context"][batch.context],
        "history": rows["history"][batch.sequences["history"].inverse],
        "searches": rows["searches"][batch.sequences["searches"].inverse],
        "candidate": rows["history"][batch.candidates.inverse],
    }


@pytest.mark.parametrize("replicated", REPLICATED)
def test_rebuilt_rows_equal_a_direct_lookup_bitwise(replicated: tuple[str, ...]) -> None:
    embedding, batch = _embedding(replicated), collate(make_table(ROWS), make_schema()).to(CPU)
    got = _rebuilt(embedding, batch)
    for name, columns in {
        "context": ["user"],
        "history": ["history.item", "history.kind"],
        "searches": ["searches.query"],
        "candidate": ["candidate.item", "candidate.kind"],
    }.items():
        assert torch.equal(got[name], _plain(embedding, columns)), name
    unique = embedding(batch.unique)["history"]
    assert len(unique) < len(got["history"]) + len(got["candidate"]), "nothing was repeated, the test shows nothing"


def test_gradients_equal_those_of_a_direct_lookup() -> None:
    embedding, batch = _embedding(("item",)), collate(make_table(ROWS), make_schema()).to(CPU)
    columns = [("history.item", "history.kind"), ("candidate.item", "candidate.kind")]

    def gradients(rebuilt: list[Tensor]) -> tuple[Tensor, ...]:
        parameters = [_table(embedding, name) for name in ("item", "kind")]
        return torch.autograd.grad(torch.cat(rebuilt).sin().sum(), parameters)

    got = gradients([_rebuilt(embedding, batch)[name] for name in ("history", "candidate")])
    plain = gradients([_plain(embedding, list(pair)) for pair in columns])
    embedding.double()
    truth = gradients([_plain(embedding, list(pair)) for pair in columns])
    for mine, exact, rough in zip(got, truth, plain):
        assert_close_to_truth(mine, exact, rough)


@pytest.mark.parametrize("replicated", REPLICATED)
def test_no_requests(replicated: tuple[str, ...]) -> None:
    embedding = _embedding(replicated)
    rows = embedding(empty_batch(make_schema()).to(CPU).unique)
    assert {name: tuple(row.shape) for name, row in rows.items()} == {
        "context": (0, 8 if "user" in replicated else 4),
        "history": (0, 16),
        "searches": (0, 8),
    }
    sum(row.sum() for row in rows.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in embedding.replicated.parameters())

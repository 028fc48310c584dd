import torch
import torch.distributed as dist
from torch import Tensor

from dist_rec.embedding.id_exchange import ask_owners
from tests.helpers.ranks import run_ranks


def _asked(ids: list[list[int]]) -> tuple[list[int], list[int]]:
    """Owners are the last bit. Answers say who answered and how many ids there were; also what was asked."""
    rank, heard = dist.get_rank(), []
    mine = torch.tensor(ids[rank], dtype=torch.int64)

    def answer(asked: Tensor) -> Tensor:
        heard.extend(asked.tolist())
        return asked * 100 + 10 * dist.get_rank() + len(asked)

    return ask_owners(mine, mine & 1, dist.get_world_size(), answer).tolist(), heard


def test_owners_hear_every_id_once_in_ascending_order() -> None:
    (first, of_first), (second, of_second) = run_ranks(_asked, 2, [[7, 4, -2, 9], [4, 2, 1, 7, -5]])
    assert (of_first, of_second) == ([-2, 2, 4], [-5, 1, 7, 9])
    assert first == [id_ * 100 + (14 if id_ % 2 else 3) for id_ in (7, 4, -2, 9)]
    assert second == [id_ * 100 + (14 if id_ % 2 else 3) for id_ in (4, 2, 1, 7, -5)]


def test_ranks_without_ids_and_owners_that_nobody_asks() -> None:
    assert run_ranks(_asked, 2, [[], [2, 4]]) == [([], [2, 4]), ([202, 402], [])]
    assert run_ranks(_asked, 2, [[], []]) == [([], []), ([], [])]


def test_alone() -> None:
    ids = torch.tensor([3, -1, 3, 2])
    assert ask_owners(ids, ids * 0, 1, lambda asked: asked * 10 + len(asked)).tolist() == [33, -7, 33, 23]
    assert ask_owners(ids[:0], ids[:0], 1, lambda asked: asked).tolist() == []

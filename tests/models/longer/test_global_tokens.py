import torch

from dist_rec.models.longer.global_tokens import GlobalTokens
from tests.models.batches import make_view


def test_rows_of_a_candidate_are_next_to_one_another_in_the_order_of_the_recipe() -> None:
    tokens, view = GlobalTokens(["cls", "user", "candidate", "cls"], 6, 5, 16).double(), make_view([2, 0, 1])
    rows = tokens(view).unflatten(0, (3, 4))
    assert tokens.learned is not None and view.context is not None
    assert torch.equal(rows[:, 0], tokens.learned[0].expand(3, -1)) and torch.equal(
        rows[:, 3], tokens.learned[1].expand(3, -1)
    )
    assert torch.equal(rows[:, 1], tokens.project[1](view.context)[view.request])
    assert torch.equal(rows[:, 2], tokens.project[2](view.features))


def test_without_learned_tokens_there_is_no_parameter_for_them() -> None:
    """A parameter outside the graph would make DDP wait for its gradient."""
    assert GlobalTokens(["candidate"], 6, 0, 16).learned is None

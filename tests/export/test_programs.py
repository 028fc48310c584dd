"""What programs take, and which models can be one."""

import pytest
import torch

from dist_rec.export.program_files import program_inputs
from dist_rec.export.programs import EncodeProgram, ScoreProgram, encode_forms, score_forms, why_not
from tests.data.requests import make_table
from tests.serve.engines import MODELS, make_engine
from tests.serve.exports import SCHEMA, make_requests


@pytest.mark.parametrize("model", [name for name in MODELS if name != "din"])
@torch.no_grad()
def test_untraced_they_give_the_scores_of_the_engine(model: str) -> None:
    engine, _ = make_engine(model)
    forms = encode_forms(engine.halves), score_forms(engine.halves)
    for request in make_requests(4):
        table = make_table([request], SCHEMA)
        events, given = program_inputs(engine, table)
        assert events.keys() == forms[0].keys() and given.keys() == forms[1].keys()
        for found, of in ((events, forms[0]), (given, forms[1])):
            assert all(
                tensor.dtype == of[name].dtype and tensor.ndim == len(of[name].shape) for name, tensor in found.items()
            )
        states = EncodeProgram(engine.halves)(events)
        got = ScoreProgram(engine.halves, list(states))(states, given)
        torch.testing.assert_close(got, engine.score_whole(table).logits, rtol=1e-5, atol=1e-5)


def test_din_says_why_it_is_none() -> None:
    engine, _ = make_engine("din")
    assert "every candidate a row" in str(why_not(engine.halves.ranker))
    engine, _ = make_engine("longer")
    assert why_not(engine.halves.ranker) is None

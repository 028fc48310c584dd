"""Programs on the disk, run by torch alone, for any number of events and candidates."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.export import program_files
from dist_rec.export.program_files import kinds_of, program_inputs, write_programs
from tests.data.requests import make_table
from tests.serve.engines import make_engine
from tests.serve.exports import SCHEMA, make_requests


@pytest.mark.slow
@pytest.mark.parametrize("model", ["longer", "longer_rankmixer", "hyformer_each"])
def test_saved_programs_give_the_scores_of_the_engine(model: str, tmp_path: Path) -> None:
    engine, _ = make_engine(model)
    table = make_table(make_requests(12, longest=20), SCHEMA)
    line = write_programs(engine, table, tmp_path, ["torch"])
    told = json.loads((tmp_path / "programs/forms.json").read_text())
    assert f"from {told['fewest_events']} events on" in line
    encode, score = (torch.export.load(tmp_path / f"programs/{name}.pt2").module() for name in ("encode", "score"))
    tried = 0
    for row in range(table.num_rows):
        request = table.slice(row, 1).combine_chunks()
        events, given = program_inputs(engine, request)
        if min(int(given[f"{of.name}.events"]) for of in SCHEMA.sequences) < told["fewest_events"]:
            continue
        got = score(encode(events), given)
        torch.testing.assert_close(got, engine.score_whole(request).logits, rtol=1e-4, atol=1e-5)
        tried += 1
    assert tried > 3
    assert set(told["encode"]["inputs"]) == set(events)  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_model_that_can_be_none_says_so(tmp_path: Path) -> None:
    engine, _ = make_engine("din")
    assert write_programs(engine, make_table(make_requests(2), SCHEMA), tmp_path, ["torch"]).startswith(
        "no programs: din"
    )
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_named() -> None:
    assert kinds_of(["onnx", "torch"]) == ("torch", "onnx")
    with pytest.raises(ConfigError, match="--programs: expected some of torch, aot, onnx, or none, got 'jit'"):
        kinds_of(["jit"])


def test_what_torch_export_cannot_trace_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_files, "export", lambda *_, **__: 1 / 0)
    engine, _ = make_engine("longer")
    with pytest.raises(ConfigError, match=r"model\.name=longer: cannot be a program.*export it with --programs none"):
        write_programs(engine, make_table(make_requests(4, longest=20), SCHEMA), tmp_path, ["torch"])


def test_programs_that_score_differently_are_refused() -> None:
    engine, _ = make_engine("longer")
    wrong: Any = {
        "encode": SimpleNamespace(module=lambda: lambda events: events),
        "score": SimpleNamespace(module=lambda: lambda _, given: torch.full((len(given["candidate.rows"]), 2), 50.0)),
    }
    with pytest.raises(ConfigError, match=r"programs: expected the logits .* of the engine, got .*50"):
        program_files._tried(engine, make_table(make_requests(4), SCHEMA), wrong)


def test_what_a_converter_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    program: Any = None
    with pytest.raises(ConfigError, match="--programs onnx: ZeroDivisionError: division by zero"):
        program_files._write(program, tmp_path / "encode.onnx", "onnx")

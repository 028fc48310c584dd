"""`programs/` of an export: a model as two programs (programs.py), tried on the requests of the reference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export, save

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import CANDIDATE, CONTEXT, REQUEST
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.numbers import as_sent
from dist_rec.export.programs import (
    EncodeProgram,
    Form,
    ScoreProgram,
    Tensors,
    encode_forms,
    score_forms,
    why_not,
)
from dist_rec.models.halves import Halves
from dist_rec.serve.engine import Engine

Kind = Literal["torch", "aot", "onnx"]
PROGRAMS, FORMS = "programs", "forms.json"
SUFFIX = {"torch": ".pt2", "aot": ".aot.pt2", "onnx": ".onnx"}
TRIED, CLOSE = 8, 1e-4  # requests, and how far a logit may be off, beside the same share of its size
EXAMPLE = 64  # events and candidates; sizes that are met while tracing must differ from those that mean something


def kinds_of(names: Sequence[str]) -> tuple[Kind, ...]:
    """Raises ConfigError for a name that is none."""
    for name in names:
        if name not in get_args(Kind):
            raise ConfigError(f"--programs: expected some of {', '.join(get_args(Kind))}, or none, got {name!r}")
    return tuple(kind for kind in get_args(Kind) if kind in names)


def write_programs(engine: Engine, asked: pa.Table, folder: Path, kinds: Sequence[Kind]) -> str:
    """Writes the programs of each kind and `forms.json`. A line of what was done, or why there are none.

    Raises ConfigError if a model of one's own cannot be traced, or a program does not give the scores of the engine."""
    halves = engine.halves
    if (told := why_not(halves.ranker)) is not None:
        return f"no programs: {told}"
    (folder / PROGRAMS).mkdir(exist_ok=True)
    forms = encode_forms(halves), score_forms(halves)
    encode = EncodeProgram(halves).eval()
    example = made_up(forms[0], EXAMPLE), made_up(forms[1], EXAMPLE)
    with torch.no_grad():
        states = encode(example[0])
        example[1].update(
            {f"{of.name}.events": torch.tensor([EXAMPLE], dtype=torch.int32) for of in engine.schema.sequences}
        )
        score = ScoreProgram(halves, list(states)).eval()
        grown = {name: {} if name.endswith(".pool") else {0: Dim.DYNAMIC} for name in states}
        try:
            programs = {
                "encode": export(encode, (example[0],), dynamic_shapes=(_open(forms[0]),), strict=False),
                "score": export(score, (states, example[1]), dynamic_shapes=(grown, _open(forms[1])), strict=False),
            }
        except Exception as error:  # the tracer's own, of which there are many kinds
            said = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"model.name={halves.ranker.config.name}: cannot be a program of torch.export ({said}); export it with "
                "--programs none"
            ) from None
        smallest, farthest = _tried(engine, asked, programs)
    for name, program in programs.items():
        for kind in kinds:
            _write(program, folder / PROGRAMS / f"{name}{SUFFIX[kind]}", kind)
    told = {
        "encode": {"inputs": _told(forms[0]), "outputs": list(states)},
        "score": {"inputs": [_told_states(states), _told(forms[1])], "outputs": ["logits"]},
        "tasks": list(engine.schema.candidate.labels),
        "fewest_events": smallest,
        "torch": torch.__version__,
    }
    (folder / PROGRAMS / FORMS).write_text(json.dumps(told, indent=1) + "\n")
    return f"programs ({', '.join(kinds)}): farthest logit {farthest:.1e}, from {smallest} events on"


def program_inputs(engine: Engine, request: pa.Table) -> tuple[Tensors, Tensors]:
    """What the two programs take for one request (one row): ids looked up, values as a batch has them."""
    host = engine.collate(request)
    batch = host.without_lookup(torch.device("cpu"))
    rows = engine.tables.rows(host.ids_of)
    owners, schema = engine.schema.layout.owners, engine.schema
    of_events, given = Tensors(), Tensors()
    for of in schema.sequences:
        events = batch.sequences[of.name]
        found = {f"{of.name}.rows": rows[owners[of.name].name][_index(host, of.name)]}
        found |= {} if events.age is None else {f"{of.name}.age": events.age}
        found |= {f"{of.name}.{name}": value.int() for name, value in events.side.items()}
        found |= {f"{of.name}.{name}": value for name, value in events.numbers.items()}
        of_events |= found
        given[f"{of.name}.events"] = events.lengths.tensor
    given[f"{CANDIDATE}.rows"] = rows[owners[CANDIDATE].name][_index(host, CANDIDATE)]
    given |= {f"{CANDIDATE}.{name}": value.int() for name, value in batch.candidates.side.items()}
    given |= {f"{CANDIDATE}.{name}": value for name, value in batch.candidates.numbers.items()}
    if schema.context:
        given[f"{CONTEXT}.rows"] = rows[CONTEXT][_index(host, CONTEXT)]
    if batch.request is not None:
        given |= {f"{REQUEST}.{name}": value.int() for name, value in batch.request.side.items()}
        given |= {f"{REQUEST}.{name}": batch.request.numbers[name] for name in as_sent(schema.request.numbers)}
        if batch.request.week is not None:
            given[f"{REQUEST}.week"] = batch.request.week
            of_events[f"{REQUEST}.week"] = batch.request.week
    return of_events, given


def made_up(forms: dict[str, Form], size: int) -> Tensors:
    """Inputs of the right forms, with open dimensions of one size."""
    found = Tensors()
    for name, of in forms.items():
        shape = [size if isinstance(dim, str) else dim for dim in of.shape]
        found[name] = torch.zeros(shape, dtype=of.dtype)
    return found


def _tried(engine: Engine, asked: pa.Table, programs: dict[str, ExportedProgram]) -> tuple[int, float]:
    """The fewest events that the programs take, and the farthest of their logits from those of the engine."""
    run = {name: program.module() for name, program in programs.items()}
    farthest, done = 0.0, 0
    smallest = next(count for count in range(1, EXAMPLE) if _runs(run, engine.halves, count))
    for row in range(asked.num_rows):
        request = asked.slice(row, 1).combine_chunks()
        of_events, given = program_inputs(engine, request)
        counts = [int(given[f"{of.name}.events"]) for of in engine.schema.sequences]
        if min(counts) < smallest or len(given[f"{CANDIDATE}.rows"]) == 0:
            continue
        got = run["score"](run["encode"](of_events), given)
        wanted = engine.score_whole(request).logits
        away = (got - wanted).abs()
        if not bool((away <= CLOSE * (1 + wanted.abs())).all()):
            raise ConfigError(f"programs: expected the logits {wanted.tolist()} of the engine, got {got.tolist()}")
        farthest, done = max(farthest, float(away.max())), done + 1
        if done == TRIED:
            break
    return smallest, farthest


def _runs(run: dict[str, Any], halves: Halves, count: int) -> bool:
    """Whether the programs take so many events. Guards of torch.export are assertions."""
    forms, given = encode_forms(halves), made_up(score_forms(halves), 1)
    given |= {f"{of.name}.events": torch.tensor([count], dtype=torch.int32) for of in halves.ranker.schema.sequences}
    try:
        run["score"](run["encode"](made_up(forms, count)), given)
    except (AssertionError, RuntimeError):
        return False
    return True


def _write(program: ExportedProgram, path: Path, kind: Kind) -> None:
    """Raises ConfigError if the packages for it are missing, or an operator has no form there."""
    if kind == "torch":
        save(program, path)
        return
    try:
        if kind == "aot":
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        else:
            torch.onnx.export(program, f=path, dynamo=True, external_data=False, verbose=False)
    except Exception as error:  # of compilers and converters
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"--programs {kind}: {type(error).__name__}: {said}") from None


def _index(host: HostBatch, owner: str) -> Tensor:
    index = host.inverse(owner)
    assert isinstance(index, Tensor), "on a CPU"
    return index.long()


def _open(forms: dict[str, Form]) -> dict[str, dict[int, Any]]:
    return {
        name: {place: Dim.DYNAMIC for place, dim in enumerate(of.shape) if isinstance(dim, str)}
        for name, of in forms.items()
    }


def _told(forms: dict[str, Form]) -> dict[str, Any]:
    return {name: {"dtype": str(of.dtype).removeprefix("torch."), "shape": of.shape} for name, of in forms.items()}


def _told_states(states: Tensors) -> dict[str, Any]:
    rows = {name: [1 if name.endswith(".pool") else "rows", *of.shape[1:]] for name, of in states.items()}
    return {name: {"dtype": "float32", "shape": shape} for name, shape in rows.items()}

"""Every mistake that can be told before ranks start is told before ranks start."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig, load_config
from dist_rec.data.errors import DataError
from dist_rec.data.files import RowGroup
from dist_rec.data.row_reader import ParquetReader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_elsewhere, check_run
from dist_rec.training.ranks import start_ranks
from tests.training.runs import make_config, run, write_dataset

ROOT = Path(__file__).resolve().parents[1]
Change = dict[str, Any]


class Unknowing(ParquetReader):
    """A reader that does not know the events of its row groups."""

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        return [replace(group, events=None) for group in super().row_groups(folder, schema)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("door") / "data")


# Where ConfigErrors are made, "file::function" -> a recipe that the door refuses there, and what it says.
AT_DOOR: dict[str, tuple[Change, str]] = {
    "data/reader.py::check_max_length": (
        {
            "data": {"max_length": 3, "path": "{seen}"},
            "model": {"tokens": {"position": "none"}, "longer": "{unmerged}"},
        },
        "data.max_length=3: expected none for this dataset",
    ),
    "data/reader.py::_check_batches": (
        {"data": {"batch_size": None, "batch_events": 90, "reader": "tests.test_door:Unknowing"}},
        "data.batch_events=90: expected a reader that says the events",
    ),
    "data/filter/policy.py::__init__": ({"data": {"filter": {}}}, "data.filter: expected something to decide by"),
    "data/filter/policy.py::_all_of": (
        {"data": {"filter": {"rules": [{"reason": "bot", "older_than_days": 3, "of": ["searches"]}]}}},
        "data.filter.rules[0]: expected events with times, but searches has none",
    ),
    "data/filter/policy.py::_owners_of": (
        {"data": {"filter": {"rules": [{"reason": "bot", "field": "brand", "values": [1]}]}}},
        "data.filter.rules[0].field: no event or request has a field 'brand'",
    ),
    "data/schema_file.py::load_schema": (
        {"data": {"leave_out": ["uzer"]}},
        "data.leave_out: 'uzer' is no context field",
    ),
    "data/schema_file.py::_with_encodings": (
        {"data": {"numbers": {"history.price": "value"}}},
        "data.numbers: 'history.price' is no number of",
    ),
    "data/kinds.py::check_fitted": ({"data": {"path": "{unfitted}"}}, "not known yet: history.price; run `dist-rec"),
    "data/schema_file.py::_with_ngrams": (
        {"data": {"ngram": {"history.itm": {"rows": 5}}}},
        "data.ngram: 'history.itm' is no field of a sequence",
    ),
    "embedding/tables.py::table_dims": (
        {"data": {"ngram": {"history.item": {"rows": 5, "heads": 3}}}},
        "n-grams of history.item, embedding.tables.item.dim: expected rows of a multiple of 24",
    ),
    "data/columns.py::columns_of": ({"data": {"path": "{shared_column}"}}, "expected one field per column"),
    "embedding/optimizers.py::fused_optimizer": (
        {"embedding": {"optimizer": "adam"}},
        "FBGEMM has no fused Adam on CPU",
    ),
    "embedding/tables.py::_check_ids": (
        {"embedding": {"tables": {"item": {"ids": "hashed", "eviction": {}}}}},
        "embedding.tables.item: eviction and admission are of tables with ids: dynamic, got ids: hashed",
    ),
    "embedding/tables.py::check_tables": ({"embedding": {"tables": {"itm": {"dim": 8}}}}, "no field uses this table"),
    "models/check.py::check_model": (
        {"model": {"head": {"task_weights": {"bye": 1.0}}}},
        "task_weights.bye: no such task",
    ),
    "models/check.py::check_split": (
        {"model": {"interaction": "rankmixer", "non_sequential": {"split": 33}}},
        "split=33: there are only 24 columns",
    ),
    "models/options.py::check_divides": (
        {"model": {"interaction": "rankmixer", "rankmixer": {"width": 22}}},
        "model.rankmixer.width=22: token mixing needs a multiple",
    ),
    "models/longer/config.py::check_schema": ({"model": {"head": {"inputs": ["context"]}}}, "longer gives globals"),
    "models/hyformer/config.py::check_schema": (
        {"model": {"name": "hyformer", "hyformer": {"sequences": {"historie": {}}}}},
        "no sequence historie in the schema",
    ),
    "models/hyformer/config.py::_check_causal": (
        {
            "data": {"path": "{seen}"},
            "model": {"name": "hyformer", "tokens": {"position": "none"}, "hyformer": {"heads": 2}},
        },
        "expected encoder: full with causal: true",
    ),
    "registry.py::resolve": ({"model": {"head": {"loss": "json:JSONDecoder"}}}, "expected a subclass of"),
    "registry.py::_load": ({"optim": {"optimizer": "nowhere.opt:Lion"}}, "no module nowhere where Python looks"),
    "distill/check.py::check_later": ({"distill": {}}, "distill: the schema declares no feedback"),
    "training/ranks.py::device_type": ({"parallel": {"backend": "nccl"}}, "parallel.backend=nccl: no GPU is visible"),
    "training/selection.py::check_selection": (
        {"run": {"select_best": "auc"}, "data": {"valid": []}},
        "run.select_best=auc needs data.valid",
    ),
    "training/splits.py::training_steps": ({"optim": {"accumulation_steps": 7}}, "the run has only 6 batches"),
    "training/study.py::check_study": ({"run": {"seeds": [1, 2]}, "resume": "last"}, "a checkpoint belongs to one run"),
    "training/checkpoint.py::_check_has_optimizer": ({"resume": "last"}, "holds weights only"),
    "training/made_with.py::schema_for": (
        {"model": {"longer": {"k": 4}}, "resume": "step-2"},
        "does not fit this schema",
    ),
    "data/reader.py::_check_position": (
        {"run": {"seed": 1}, "resume": "step-2"},
        "cannot resume the data stream: it was saved with seed=0, now it is 1",
    ),
    "data/recut.py::__init__": (
        {"data": {"batch_size": None, "batch_events": 50}, "resume": "step-2"},
        "batches by events cannot be cut anew after step 2",
    ),
    "training/start.py::check_drift": (
        {"optim": {"lr": 0.5}, "resume": "step-2"},
        "- optim.lr: 0.01\n+ optim.lr: 0.5",
    ),
    "training/made_with.py::read": ({"resume": "nowhere"}, "it has no made_with.json"),
    "training/safe_load.py::read_index": ({"resume": "nowhere"}, "not a checkpoint; expected a folder made by a run"),
    "training/warm_schema.py::warm_schema": (
        {"model": {"longer": {"heads": 1}}, "init": {"checkpoint": "last"}},
        "model.longer.heads: 2 when it was saved, 1 now",
    ),
    "training/warm_start.py::find": (
        {"embedding": {"tables": {"item": {"rows": 49}}}, "init": {"checkpoint": "last"}},
        "tables.item: the table has shrunk: expected at least 50 ids as in the checkpoint, got 49",
    ),
    "training/freeze.py::check_freeze": (
        {"init": {"checkpoint": "last", "freeze": ["tables.itm"]}},
        "init.freeze: no weight that is trained fits tables.itm",
    ),
    "common/yaml_file.py::read_yaml": ({"data": {"path": "/nowhere"}}, "/nowhere/schema.yaml: no such file"),
    "common/strict.py::check": ({"data": {"path": "{wrong_schema}"}}, "naem: unknown key; did you mean 'name'"),
}
LOADING = "when the recipe is read, before the door: tests/test_config.py, tests/common/test_yaml_file.py"
DAMAGE = "damage of a checkpoint, which the door finds through read_index: tests/training/test_safe_load.py"
OF_RANKS = "depends on the number of ranks, or on what torchrun has set"
NOT_AT_DOOR: dict[str, str] = {
    "common/yaml_file.py::apply_override": LOADING,
    "common/yaml_file.py::_parse": LOADING,
    "training/safe_load.py::_check_entries": DAMAGE,
    "training/safe_load.py::_check_files": DAMAGE,
    "training/safe_load.py::load_bytes": "a file of tensors is looked at when it is read",
    "models/ranker.py::_feedback_encoder": "a model of one's own says how wide feedback tokens are when it is made",
    "training/checkpoint.py::load_checkpoint": "tensors are compared with those of the sharded model",
    "training/checkpoint.py::explained": "tensors are compared with those of the sharded model",
    "training/checkpoint.py::load_position": "without a position the optimizer is missing too, unless damaged",
    "training/checkpoint.py::load_random": "every rank reads its own",
    "training/setup.py::_restore": "every rank reads its own",
    "training/manifest.py::read": DAMAGE,
    "training/manifest.py::check_sizes": DAMAGE,
    "training/manifest.py::check_sums": "all ranks read the files of a checkpoint, each a share",
    "training/result.py::read": "damage of a file in the folder of a run: tests/training/test_result.py",
    "training/setup.py::_resume": "the steps of a run depend on the number of ranks",
    "distill/check.py::check_copy": "the steps of a run depend on the number of ranks",
    "data/fit.py::fit_dataset": "of `dist-rec data fit`, which starts no ranks",
    "data/reader.py::__post_init__": "readers of a run have the attributes of their dataset",
    "data_cli.py::synth": "of `dist-rec data synth`, which starts no ranks",
    "data/loader.py::__iter__": "the state of a loader is read by its workers",
    "data/filter/policy.py::decided": "what a policy of one's own decides is known when it has decided",
    **{
        f"training/purge_checkpoint.py::{name}": "of `dist-rec purge`, which starts no ranks"
        for name in ("_read_all", "_rewrite", "_rewrite_file")
    },
    "training/feedback_audit.py::refuse_leaks": "what feedback tells is measured on the training data",
    "training/feedback_audit.py::audit_recipe": "of `dist-rec distill audit`, which starts no ranks",
    "training/replay.py::checkpoint_before": "of `dist-rec replay`",
    "training/replay.py::replay": "of `dist-rec replay`",
    "training/filter_report.py::report": "of `dist-rec filter report`, which starts no ranks",
    "data/reader.py::load_state_dict": "the settings in the state depend on the number of ranks",
    "data/ngram/told.py::ngrams_told": "an option of a command that starts no run",
    "embedding/plan.py::plan_for": OF_RANKS,
    "embedding/slot_map.py::check": OF_RANKS,
    **{
        f"runs/{place}": "of `dist-rec runs`, which starts no ranks"
        for place in ("find.py::find_runs", "find.py::chosen", "report.py::report")
    },
    "training/evaluate.py::evaluate_checkpoint": "of `dist-rec eval`, before its ranks do anything",
    "predict/predict.py::predict_files": "of `dist-rec predict`, before its ranks load anything",
    "predict/job.py::check_same": "of `dist-rec predict`, before its ranks load anything",
    "predict/alone.py::_enter": "of `load_model`, which is no run",
    "predict/predictor.py::_without_paths": "of `load_model`, which is no run",
    "training/ranks.py::start_ranks": OF_RANKS,
    "training/ranks.py::_check_environment": OF_RANKS,
}


# Where export and serve refuse, which start no ranks -> the test that raises it.
OF_SERVING: dict[str, str] = {
    "export/changes.py::keep_changes": "export/test_changes.py::test_another_model_is_refused",
    "export/program_files.py::kinds_of": "export/test_program_files.py::test_an_unknown_kind_is_named",
    "export/program_files.py::write_programs": "export/test_program_files.py::"
    "test_what_torch_export_cannot_trace_is_told",
    "export/program_files.py::_tried": "export/test_program_files.py::test_programs_that_score_differently_are_refused",
    "export/program_files.py::_write": "export/test_program_files.py::test_what_a_converter_says_is_told",
    "export/read_checkpoint.py::tensors": "export/test_read_checkpoint.py::test_damage_is_named",
    "export/read_checkpoint.py::write_table": "export/test_read_checkpoint.py::"
    "test_a_width_that_cannot_be_stored_is_named",
    "export/write.py::export_model": "export/test_write.py::"
    "test_a_filter_that_acts_when_candidates_are_scored_is_refused",
    "export/write.py::_data_of": "export/test_write.py::test_a_recipe_without_a_split_needs_requests",
    "serve/delta.py::apply_delta": "serve/test_delta.py::test_a_delta_is_the_whole_export_of_later_weights",
    "serve/disk_store.py::_locked": "serve/test_disk_store.py::test_one_process_at_a_time",
    "serve/folder.py::read_model": "serve/test_folder.py::test_the_files_that_are_needed",
    "serve/folder.py::read": "serve/test_folder.py::test_what_is_wrong_is_said",
    "serve/folder.py::check": "serve/test_folder.py::test_what_is_wrong_is_said",
    "serve/load.py::load_export": "serve/test_delta.py::test_a_delta_is_the_whole_export_of_later_weights",
    "serve/load.py::build_engine": "serve/test_load.py::test_files_that_do_not_fit_one_another_are_named",
    "serve/load.py::read_tensors": "serve/test_load.py::test_what_is_no_file_of_tensors_is_named",
    "serve/load.py::_changed": "serve/test_load.py::test_rows_of_a_delta_are_rows_of_the_table",
    "serve/load.py::_check": "serve/test_load.py::test_what_is_no_file_of_tensors_is_named",
    "serve/load.py::_load": "serve/test_load.py::test_files_that_do_not_fit_one_another_are_named",
    "serve/redis_store.py::of_url": "serve/test_redis_store.py::test_addresses",
    "serve/reference.py::read_reference": "serve/test_reference.py::test_what_is_no_reference_of_the_export_is_named",
    "serve/reference.py::check_reference": "serve/test_reference.py::test_what_is_no_reference_of_the_export_is_named",
    "serve/server/core.py::load": "serve/server/test_core.py::test_what_breaks_while_an_export_is_loaded_is_told",
    "serve/server/live.py::_check_later": "serve/server/test_live.py::test_a_delta_that_comes_late_does_not_go_back",
    "serve/server/settings.py::_token": "serve/server/test_settings.py::test_tokens_come_from_files_or_the_environment",
    "serve_cli.py::serve": "test_serve_cli.py::test_without_the_extra_it_says_what_to_install",
}


def _sites() -> set[str]:
    """Every function that makes a ConfigError."""
    found = set()
    for path in (ROOT / "dist_rec").rglob("*.py"):
        place = path.relative_to(ROOT / "dist_rec").as_posix()
        if place.startswith(("kernels/", "cost/", "probe/")):  # no recipe
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func) == "ConfigError"]
                inner = [f for f in ast.walk(node) if isinstance(f, ast.FunctionDef) and f is not node]
                if any(not any(call in ast.walk(f) for f in inner) for call in calls):
                    found.add(f"{place}::{node.name}")
    return found - {"door.py::_tell"}


def test_every_error_is_at_the_door_or_has_its_reason_why_not() -> None:
    assert not set(AT_DOOR) & set(NOT_AT_DOOR)
    assert _sites() == set(AT_DOOR) | set(NOT_AT_DOOR) | set(OF_SERVING)


@pytest.mark.parametrize("site", OF_SERVING)
def test_the_errors_of_serving_have_their_tests(site: str) -> None:
    file, _, name = OF_SERVING[site].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    (test,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert "ConfigError" in ast.unparse(test) or "code == 2" in ast.unparse(test)


@pytest.fixture(scope="module")
def checkpoints(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of two steps: `step-2` to go on from, `last` with weights only."""
    out = tmp_path_factory.mktemp("made")
    with start_ranks(ParallelConfig()) as alone:
        run(make_config(data, out, run={"max_steps": 2}, checkpoint={"every_steps": 2}), alone)
    return out / "run" / "checkpoints"


@pytest.fixture(scope="module")
def folders(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Datasets with something special, by name."""
    plain = yaml.safe_load((data / "schema.yaml").read_text())
    sequence = {"name": "history", "ids": ["item"], "side": {"correct": 2}}
    seen = {"name": "answers", "tables": {"item": 50}, "request": {"grouping_key": "user"}, "sequences": [sequence]}
    schemas = {
        "seen": seen | {"candidate": {"ids": ["item"], "labels": ["correct"], "visible_events": True}},
        "wrong_schema": plain | {"naem": 3},
        "unfitted": plain | {"sequences": [plain["sequences"][0] | {"numbers": {"price": {}}}, plain["sequences"][1]]},
        "shared_column": plain | {"request": {"grouping_key": "time", "time": "time"}},
    }
    made: dict[str, Any] = {"unmerged": {"merge": 1, "k": 0, "globals": ["candidate"], "heads": 2, "inner_heads": 2}}
    for name, schema in schemas.items():
        made[name] = str(tmp_path_factory.mktemp(name))
        (Path(made[name]) / "schema.yaml").write_text(yaml.safe_dump(schema))
        if name == "shared_column":
            load_schema(made[name])
    return made


def _filled(tree: Any, folders: dict[str, Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _filled(value, folders) for key, value in tree.items()}
    return folders[tree[1:-1]] if isinstance(tree, str) and tree.startswith("{") else tree


@pytest.mark.parametrize("site", AT_DOOR)
def test_the_door_refuses(site: str, data: Path, folders: dict[str, Any], checkpoints: Path, tmp_path: Path) -> None:
    change, message = AT_DOOR[site]
    change = _filled(change, folders)
    resume = checkpoints / change.pop("resume") if "resume" in change else None
    if "init" in change:
        change["init"] = {**change["init"], "checkpoint": str(checkpoints / change["init"]["checkpoint"])}
    with pytest.raises(ConfigError) as caught:
        check_run(make_config(data, tmp_path, **change), resume)
    assert message in str(caught.value)
    assert not any(tmp_path.iterdir()), "nothing is written"


def test_a_right_recipe_passes(data: Path, checkpoints: Path, tmp_path: Path) -> None:
    check_run(make_config(data, tmp_path))
    check_run(
        make_config(data, tmp_path, run={"max_steps": 4}),
        checkpoints / "step-2",
        allow=["run.max_steps", "checkpoint.*"],
    )


def test_everything_is_told_at_once(data: Path, tmp_path: Path) -> None:
    config = make_config(
        data,
        tmp_path,
        embedding={"optimizer": "adam", "tables": {"itm": {"dim": 8}}},
        model={"head": {"inputs": ["context"], "loss": "nowhere:Loss"}},
        run={"select_best": "auc"},
        data={"valid": [], "train": ["trian"]},
    )
    with pytest.raises(ConfigError) as caught:
        check_run(config)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 problems:" and all(line.startswith("- ") for line in lines[1:]) and len(lines) == 7


def test_data_alone_is_a_data_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trian: expected a folder of Parquet files"):
        check_run(make_config(data, tmp_path, data={"train": ["trian"]}))


@pytest.mark.parametrize("recipe", sorted((ROOT / "launch" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_lack_nothing_but_their_data(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run(load_config(recipe, [f"data.path={tmp_path / 'nowhere'}"]))
    assert "nowhere/schema.yaml: no such file" in str(caught.value) and "problems" not in str(caught.value)


def test_for_another_machine_its_devices_count_and_data_may_be_missing(data: Path, tmp_path: Path) -> None:
    fused = make_config(data, tmp_path, embedding={"optimizer": "adam"}, parallel={"backend": "nccl"})
    check_elsewhere(fused, "cuda", with_data=True)
    with pytest.raises(ConfigError, match="FBGEMM has no fused Adam on CPU"):
        check_elsewhere(fused, "cpu", with_data=True)
    nothing = make_config(data, tmp_path, data={"train": ["gone"]})
    check_elsewhere(nothing, "cuda", with_data=False)
    with pytest.raises(DataError, match="gone"):
        check_elsewhere(nothing, "cuda", with_data=True)

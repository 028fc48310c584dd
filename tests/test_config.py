import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config, load_config

RECIPES = sorted((Path(__file__).resolve().parents[1] / "launch" / "recipes").glob("*.yaml"))


def _recipe(folder: Path, tree: dict[str, Any] | None = None) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": {"path": "somewhere"}, **(tree or {})}))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_config(path).run.name


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2


def test_defaults_stand_where_a_recipe_is_silent(tmp_path: Path) -> None:
    assert load_config(_recipe(tmp_path)) == Config.model_validate({"data": {"path": "somewhere"}})


def test_set_overrides_the_recipe(tmp_path: Path) -> None:
    path = _recipe(tmp_path, {"model": {"longer": {"k": 4, "merge": 2}}})
    settings = [
        "model.longer.k=8",
        "optim.lr=1e-3",
        "optim.clip_norm=null",
        "embedding.tables.item.sharding=[row_wise]",
    ]
    config = load_config(path, settings)
    assert (config.model.longer.k, config.model.longer.merge) == (8, 2)
    assert config.optim.lr == 1e-3 and config.optim.clip_norm is None
    assert config.embedding.tables["item"].sharding == ["row_wise"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.longer.k", "--set model.longer.k: expected key=value, for example model.longer.k=32"),
        ("=3", "--set =3: expected key=value"),
        ("data.path.x=3", "--set data.path.x=3: 'path' holds a value, not a group of keys"),
        ("model.longer.k=[1,", r"--set model.longer.k=\[1,: the value is not valid YAML"),
        (
            "model.longer={k: 1, k: 2}",
            "--set model.longer={k: 1, k: 2}: the value is not valid YAML: the key 'k' stands twice",
        ),
        ("run.name=!!python/name:os.system", "the value is not valid YAML: could not determine a constructor"),
        ("run.name=2024-13-01", "the value is not valid YAML: month"),
        ("model.longer.kk=3", "model.longer.kk: unknown key; did you mean 'k'"),
    ],
)
def test_a_wrong_override_says_which(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(_recipe(tmp_path), [override])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"modle": {}}, "modle: unknown key; did you mean 'model'"),
        ({"model": {"longer": {"qeries": "recent"}}}, "model.longer.qeries: unknown key; did you mean 'queries'"),
        (
            {"embedding": {"tables": {"item": {"shardin": ["row_wise"]}}}},
            "item.shardin: unknown key; did you mean 'sharding'",
        ),
        ({"run": {"xyzzy": 1}}, "run.xyzzy: unknown key; known here: out, name, seed"),
        ({"model": {"longer": {"k": -1}}}, "model.longer.k: Input should be greater than or equal to 0, got -1"),
        ({"model": {"longer": {"queries": "oldest"}}}, "model.longer.queries: .*'recent'.*, got 'oldest'"),
        ({"optim": {"lr": "fast"}}, "optim.lr: .*valid number.*, got 'fast'"),
        ({"data": {}}, "data.path: Field required$"),
        ({"data": {"path": "x", "train": []}}, "data: train needs at least one sub-folder, got none"),
        ({"data": {"path": "x", "folds": ["a", "b"]}}, r"data: folds needs at least 3 names .*, got \['a', 'b'\]"),
        ({"model": {"longer": {"heads": 5}}}, r"model: longer.heads=5 must divide the merged width .* = 128"),
        (
            {"model": {"tokens": {"width": 6}, "longer": {"merge": 1, "heads": 2, "rotary": True}}},
            "even head size, got 6 / 2",
        ),
        ({"model": {"longer": {"inner_heads": 3}}}, "model: longer.inner_heads=3 must divide tokens.width=32"),
        (
            {"model": {"name": "hyformer", "hyformer": {"heads": 5}}},
            "model: hyformer.heads=5 must divide tokens.width=32",
        ),
        (
            {"model": {"name": "hyformer", "tokens": {"width": 6}, "hyformer": {"heads": 2, "rotary": True}}},
            "model: hyformer.rotary needs an even head size, got 6 / 2",
        ),
        (
            {"model": {"name": "hyformer", "interaction": "rankmixer"}},
            "model: interaction: hyformer mixes tokens in every layer; leave it out",
        ),
        ({"model": {"hyformer": {"query_inputs": []}}}, "model.hyformer.query_inputs: .*at least 1 item"),
        (
            {"model": {"hyformer": {"sequences": {"clicks": {"recnt": 3}}}}},
            "clicks.recnt: unknown key; did you mean 'recent'",
        ),
        ({"model": {"hyformer": {"sequences": {"clicks": {"queries": 0}}}}}, "clicks.queries: .*or equal to 1, got 0"),
        ({"model": {"non_sequential": {"split": 0}}}, "model.non_sequential.split: .*or equal to 1, got 0"),
        (
            {"model": {"non_sequential": {"split": 4}}},
            "non_sequential.split=4: longer makes no tokens",
        ),
        (
            {"model": {"recompute": ["mixer"]}},
            "recompute: longer has no mixer; expected some of tokens, inner, cross, self",
        ),
        (
            {"model": {"name": "hyformer", "recompute": ["tokens", "cross", "self"]}},
            "recompute: hyformer has no cross, self; expected some of tokens, encoders, decoders, mixer",
        ),
        (
            {"model": {"name": "din", "interaction": "rankmixer", "recompute": ["inner"]}},
            "recompute: din has no inner; expected some of tokens, mixer",
        ),
        (
            {"model": {"name": "hyformer", "hyformer": {"merge_sequences": True, "pools": "own"}}},
            "hyformer.pools: own is of separate sequences; merge_sequences leaves one, expected pools: all",
        ),
        ({"embedding": {"dim": 2048}}, "embedding.dim: Input should be less than or equal to 1024, got 2048"),
        ({"embedding": {"dim": 6}}, "embedding.dim: Input should be a multiple of 4, got 6"),
        (
            {"embedding": {"tables": {"item": {"sharding": ["data_parallel", "row_wise"]}}}},
            r"embedding.tables.item: a data_parallel table is not planned: .* got \['data_parallel', 'row_wise'\], "
            r"kernel None",
        ),
        (
            {"embedding": {"tables": {"item": {"sharding": ["data_parallel"], "kernel": ["fused"]}}}},
            r"expected sharding: \[data_parallel\] alone, got \['data_parallel'\], kernel \['fused'\]",
        ),
    ],
)
def test_a_wrong_value_says_where_what_and_what_came(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(_recipe(tmp_path, tree))
    assert str(tmp_path / "recipe.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "came"),
    [
        ("data.batch_size", "yes", "True"),
        ("run.epochs", "true", "True"),
        ("data.workers", "off", "False"),
        ("data.max_length", "no", "False"),
        ("optim.lr", "on", "True"),
        ("optim.clip_norm", "no", "False"),
        ("optim.betas", "[yes, 0.9]", "True"),
        ("run.seeds", "[1, true]", "True"),
        ("model.head.hidden", "[on]", "True"),
        ("model.head.task_weights.buy", "on", "True"),
        ("embedding.tables.item.dim", "on", "True"),
    ],
)
def test_what_yaml_reads_as_true_or_false_is_no_number(tmp_path: Path, key: str, value: str, came: str) -> None:
    place = key.removesuffix(".buy")
    with pytest.raises(
        ConfigError, match=rf"\n  {place}: expected a number, got {came} \(what yes, no, on and off are in YAML"
    ):
        load_config(_recipe(tmp_path), [f"{key}={value}"])


def test_switches_still_read_yes_and_no(tmp_path: Path) -> None:
    config = load_config(_recipe(tmp_path), ["data.dedup=no", "run.deterministic=yes", "optim.clip_norm=null"])
    assert not config.data.dedup and config.run.deterministic and config.optim.clip_norm is None


@pytest.mark.parametrize(
    "text", ["optim:", "model: {longer: }", "embedding: {tables: }", "embedding: {tables: {item: }}"]
)
def test_a_group_whose_keys_are_all_commented_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"data: {{path: x}}\n{text}\n")
    with pytest.raises(ConfigError, match=r": expected a group of keys, got nothing; remove the line, or add keys$"):
        load_config(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"data.batch_size={10**23}", "data.batch_size: Input should be less than or equal to 2147483647, got 1000"),
        (f"run.seed={10**23}", "run.seed: Input should be less than or equal to 9223372036854775807, got 1000"),
        (f"run.seeds=[1, {10**23}]", "run.seeds.1: Input should be less than or equal to"),
        (f"data.max_length={2**31}", "data.max_length: Input should be less than or equal to"),
        (f"model.head.hidden=[{2**31}]", "model.head.hidden.0: Input should be less than or equal to"),
        ("model.head.hidden=[0]", "model.head.hidden.0: Input should be greater than or equal to 1, got 0"),
        ("optim.lr=.inf", "optim.lr: Input should be a finite number, got inf"),
        ("optim.clip_norm=.nan", "optim.clip_norm: Input should be a finite number, got nan"),
        ("optim.betas=[0.9, .inf]", "optim.betas.1: Input should be a finite number, got inf"),
        ("model.head.task_weights.buy=.inf", "model.head.task_weights.buy: Input should be a finite number, got inf"),
        *(
            (f"run.name={name}", "run.name: expected the name of one folder")
            for name in ("''", ".", "..", "a/b", "/", '"a\\0"')
        ),
        ('data.path="a\\0"', "data.path: expected a path without zero bytes"),
        ("optim=3", "optim: expected a group of keys, got 3"),
    ],
)
def test_what_no_run_can_have(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(_recipe(tmp_path), [setting])


def test_the_home_folder_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(_recipe(tmp_path), ["data.path=~/data", "run.out=~/runs"])
    assert (config.data.path, config.run.out) == ("/home/someone/data", "/home/someone/runs")


def test_every_problem_is_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        check(Config, {"data": {"path": "x", "batch_size": 0}, "modle": {}}, "recipe.yaml")
    assert str(caught.value).splitlines() == [
        "recipe.yaml:",
        "  data.batch_size: Input should be greater than or equal to 1, got 0",
        "  modle: unknown key; did you mean 'model'?",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": ["a", "b", "a"]}, "train: expected every name once, got 'a' 2 times; its rows would be read twice"),
        ({"valid": ["a", "a/"]}, "valid: expected every name once, got 'a'"),
        ({"test": ["./a", "a"]}, "test: expected every name once, got 'a'"),
        ({"folds": ["a", "b", "c", "b"]}, "folds: expected every name once, got 'b'"),
        ({"leave_out": ["user", "user"]}, "leave_out: expected every name once, got 'user'"),
        ({"train": ["a", "a/day=1"]}, "'a/day=1' lies inside 'a', whose rows are read with all sub-folders"),
        ({"train": ["."]}, "'test' lies inside '.'"),
    ],
)
def test_no_rows_are_read_twice(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(_recipe(tmp_path, {"data": {"path": "somewhere", **data}}))


def test_batches_by_events_take_the_place_of_batches_by_requests(tmp_path: Path) -> None:
    config = load_config(_recipe(tmp_path), ["data.batch_events=20000"])
    assert (config.data.batch_size, config.data.batch_events, config.data.eval_batch_size) == (None, 20000, 128)
    assert Config.model_validate({"data": config.data.model_dump()}).data == config.data, "as in a resolved recipe"
    given = _recipe(tmp_path, {"data": {"path": "x", "batch_size": 32}})
    assert load_config(given, ["data.batch_events=20000", "data.batch_size=null"]).data == config.data.model_copy(
        update={"path": "x"}
    )
    for wrong, got in (("data.batch_events=20000", "32 and batch_events=20000"), ("data.batch_size=null", "None and")):
        with pytest.raises(ConfigError, match=f"data: expected either batch_size or batch_events.*batch_size={got}"):
            load_config(given, [wrong])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_configuration_does_not_change() -> None:
    config = Config.model_validate({"data": {"path": "x"}})
    with pytest.raises(ValidationError, match="frozen"):
        config.run.seed = 3


def test_every_key_has_a_description() -> None:
    undescribed = []
    pending: list[type[BaseModel]] = [Config]
    while pending:
        kind = pending.pop()
        for name, field in kind.model_fields.items():
            inner = [k for k in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(k, type)]
            models = [k for k in inner if issubclass(k, BaseModel)]
            pending += models
            if not models and not field.description:
                undescribed.append(f"{kind.__name__}.{name}")
    assert not undescribed


def test_equal_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"run: seeds must differ.*\[1, 1\]"):
        check(Config, {"data": {"path": "x"}, "run": {"seeds": [1, 1]}}, "here")


def test_windows_are_the_splits() -> None:
    data = {"path": "somewhere", "windows": ["a", "b", "c"]}
    config = Config.model_validate({"data": data})
    assert (config.data.train, config.data.valid, config.data.test) == (["a", "b"], [], [])
    assert Config.model_validate(config.model_dump()).data == config.data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"windows": ["a"]}}, "windows needs at least 2 names, one to train on and one to judge"),
        ({"data": {"windows": ["a", "b"], "train": ["x"]}}, "windows replaces train; expected no train beside it"),
        ({"data": {"windows": ["a", "b"], "valid": ["x"]}}, "windows replaces valid"),
        ({"data": {"windows": ["a", "b", "a"]}}, "windows"),
        ({"data": {"windows": ["a", "b"], "folds": ["x", "y", "z"]}}, "either windows or folds"),
        (
            {"data": {"windows": ["a", "b", "c"], "observed_at": [9]}},
            "observed_at: expected a moment for each of the 2 windows that are trained on, got 1 moments",
        ),
        ({"data": {"observed_at": [9, 10]}}, "observed_at: expected a moment for windows, got 2 moments"),
        ({"data": {"windows": ["a", "b", "c"], "observed_at": [9, 8]}}, "moments in order of time, got 9 and then 8"),
        ({"data": {"windows": ["a", "b"], "observed_at": [-1]}}, "observed_at"),
        ({"data": {"windows": ["a", "b"]}, "optim": {"accumulation_steps": 2}}, "expected optim.accumulation_steps: 1"),
    ],
)
def test_windows_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    tree = {**changes, "data": {"path": "somewhere", **changes["data"]}}
    with pytest.raises(ConfigError, match=message):
        check(Config, tree, "here")

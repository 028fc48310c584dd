from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from dist_rec.config import Config, ConfigError, apply_override, check, load_config, read_yaml

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


def test_a_value_may_hold_an_equals_sign() -> None:
    tree: dict[str, Any] = {}
    apply_override(tree, "run.name=lr=3")
    assert tree == {"run": {"name": "lr=3"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.longer.k", "--set model.longer.k: expected key=value, for example model.longer.k=32"),
        ("=3", "--set =3: expected key=value"),
        ("data.path.x=3", "--set data.path.x=3: 'path' holds a value, not a group of keys"),
        ("model.longer.k=[1,", r"--set model.longer.k=\[1,: the value is not valid YAML"),
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
        ({"embedding": {"tables": {"item": {"shardin": ["row_wise"]}}}}, "item.shardin: unknown key; did you mean 'sharding'"),
        ({"run": {"xyzzy": 1}}, "run.xyzzy: unknown key; known here: out, name, seed"),
        ({"model": {"longer": {"k": -1}}}, "model.longer.k: Input should be greater than or equal to 0, got -1"),
        ({"model": {"longer": {"queries": "oldest"}}}, "model.longer.queries: .*'recent'.*, got 'oldest'"),
        ({"optim": {"lr": "fast"}}, "optim.lr: .*valid number.*, got 'fast'"),
        ({"data": {}}, "data.path: Field required$"),
        ({"data": {"path": "x", "folds": ["a", "b"]}}, r"data: folds needs at least 3 names .*, got \['a', 'b'\]"),
        ({"model": {"longer": {"heads": 5}}}, r"model: longer.heads=5 must divide the merged width .* = 128"),
        ({"model": {"tokens": {"width": 6}, "longer": {"merge": 1, "heads": 2, "rotary": True}}}, "even head size, got 6 / 2"),
        ({"model": {"longer": {"inner_heads": 3}}}, "model: longer.inner_heads=3 must divide tokens.width=32"),
        ({"embedding": {"dim": 6}}, "embedding.dim: Input should be a multiple of 4, got 6"),
        (
            {"embedding": {"tables": {"item": {"sharding": ["data_parallel", "row_wise"]}}}},
            r"embedding.tables.item: a data_parallel table is not planned: .* got \['data_parallel', 'row_wise'\], kernel None",
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


def test_every_problem_is_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        check(Config, {"data": {"path": "x", "batch_size": 0}, "modle": {}}, "recipe.yaml")
    assert str(caught.value).splitlines() == [
        "recipe.yaml:",
        "  data.batch_size: Input should be greater than or equal to 1, got 0",
        "  modle: unknown key; did you mean 'model'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping of keys at the top, got list"),
        ("", "expected a mapping of keys at the top, got NoneType"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


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


def test_heads_need_not_fit_a_model_that_is_not_chosen() -> None:
    tree = {"data": {"path": "x"}, "model": {"name": "din", "tokens": {"width": 30}}}
    assert check(Config, tree, "here").model.name == "din"


def test_equal_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"run: seeds must differ.*\[1, 1\]"):
        check(Config, {"data": {"path": "x"}, "run": {"seeds": [1, 1]}}, "here")

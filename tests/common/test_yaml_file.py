import re
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.common.yaml_file import apply_override, read_yaml


def test_a_value_may_hold_an_equals_sign() -> None:
    tree: dict[str, Any] = {}
    apply_override(tree, "run.name=lr=3")
    assert tree == {"run": {"name": "lr=3"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping of keys at the top, got list"),
        ("", "expected a mapping of keys at the top, got nothing"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands twice, in line 1 and in line 3; keep one"),
        ("a:\n  b: {c: 1, c: 1}\n", "the key 'c' stands twice, in line 2 and in line 2"),
        ("a:\n- b: 1\n  b: 2\n", "the key 'b' stands twice"),
        ("on: 1\ntrue: 2\n", "the key 'true' stands twice"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}\n", "the key '<<' stands twice"),
        ("a: 1\n---\nb: 2\n", "not valid YAML: expected a single document"),
        ("a: 2024-13-01\n", "not valid YAML: month must be in 1..12"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML: it is nested too deeply"),
        ("a: !!python/object/apply:os.mkdir [planted]\n", "not valid YAML: could not determine a constructor"),
        ("a: !!python/name:os.system\n", "not valid YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{re.escape(message)}"):
        read_yaml(path)
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a: 1\n# für\n".encode("latin-1"),
            "expected text in UTF-8, got a byte 0xfc in line 2; save the file as UTF-8",
        ),
        ("a: 1\n".encode("utf-16"), "expected text in UTF-8, got a byte 0xff in line 1"),
        ("a: 1\n".encode("utf-16-le"), "expected text in UTF-8, got zero bytes, as in UTF-16"),
        ("a: 1\n".encode("utf-32"), "expected text in UTF-8"),
        (b"\x80\x04cos\nmkdir\n", "expected text in UTF-8"),
    ],
)
def test_a_file_in_another_encoding(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"recipe.yaml: {message}"):
        read_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("content", ["a: {b: ü}\n".encode(), "\ufeffa: {b: ü}\n".encode(), "a: {b: ü}\r\n".encode()])
def test_utf8_in_all_its_forms(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"b": "ü"}}


def test_anchors_and_merge_keys_stay(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: *x\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2}}


def test_a_folder_and_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}: expected a YAML file, got a folder"):
        read_yaml(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"recipe.yaml: cannot be read: Permission denied"):
        read_yaml(tmp_path / "recipe.yaml")

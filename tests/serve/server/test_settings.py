"""Settings of a server, and its tokens."""

from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.serve.server.settings import ADMIN_TOKEN, TOKEN, Settings


def test_all_have_a_default_and_are_described() -> None:
    assert all(of.description for of in Settings.model_fields.values())
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"port": 70_000}, "port: "),
        ({"prot": 1}, "did you mean 'port'"),
        ({"disk": "a", "redis": "redis://b"}, "expected disk or redis, got both"),
        ({"disk": ""}, "disk: "),
        ({"max_wait_ms": float("nan")}, "max_wait_ms: "),
    ],
)
def test_wrong_ones(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Settings, tree, "serve")


def test_tokens_come_from_files_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN, ADMIN_TOKEN):
        monkeypatch.delenv(name, raising=False)
    assert Settings().token is None and Settings().admin_token is None
    monkeypatch.setenv(TOKEN, " one\n")
    monkeypatch.setenv(ADMIN_TOKEN, "")
    assert Settings().token == b"one" and Settings().admin_token is None
    file = tmp_path / "token"
    file.write_text("two\n")
    assert Settings(token_file=str(file), admin_token_file=str(file)).token == b"two"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="got an empty one"):
        _ = Settings(token_file=str(file)).token
    with pytest.raises(ConfigError, match="got: No such file"):
        _ = Settings(admin_token_file=str(tmp_path / "nothing")).admin_token

"""An export takes the place of another one only when it is whole and scores as it did."""

import shutil
from pathlib import Path

import pytest

from dist_rec.common.made import MARKER
from dist_rec.common.strict import ConfigError
from dist_rec.export.changes import keep_changes
from dist_rec.serve.cache import StateCache
from dist_rec.serve.folder import DENSE, EXPORT, Export
from dist_rec.serve.server.live import EXAMPLE_EVENTS, Live
from dist_rec.serve.server.settings import Settings
from dist_rec.serve.user_states import UserStates
from tests.serve.exports import EVENTS, write_export


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("live")
    return write_export(folder / "one"), write_export(folder / "two", seed=1)


def make_live(**settings: int) -> Live:
    return Live(UserStates(StateCache(10**6)), Settings(**settings))


def write_delta(folder: Path, base: Path, step: int = 2, run: str = "small") -> Path:
    write_export(folder, seed=2)
    keep_changes(folder, base)
    (folder / EXPORT).unlink()
    (folder / MARKER).unlink()
    of = Export.read(base).version
    Export.of(folder, f"{step}{run}", base=of, run=run, step=step, requests=None, versions={}).write(folder)
    return folder


def test_a_link_is_followed_again_and_a_bad_export_changes_nothing(exports: tuple[Path, Path], tmp_path: Path) -> None:
    live, link = make_live(), tmp_path / "current"
    assert live.running is None
    link.symlink_to(exports[0])
    first = live.load(link)
    assert live.running is first and live.path == link
    link.unlink()
    link.symlink_to(exports[1])
    second = live.load(link)
    assert second.version != first.version and live.running is second
    bad = tmp_path / "bad"
    shutil.copytree(exports[0], bad)
    data = bytearray((bad / DENSE).read_bytes())
    data[-5] ^= 1
    (bad / DENSE).write_bytes(data)
    for wrong in (bad, tmp_path / "nothing"):
        with pytest.raises(ConfigError):
            live.load(wrong)
    assert live.running is second and live.path == link


def test_a_delta_changes_the_whole_export_that_it_is_of(exports: tuple[Path, Path], tmp_path: Path) -> None:
    live = make_live()
    base = live.load(exports[0])
    delta = write_delta(tmp_path / "delta", exports[0])
    made = Export.read(delta)
    with pytest.raises(ConfigError, match="expected a whole export"):
        make_live().load(delta)
    changed = live.load(delta)
    assert changed.version == made.version != base.version and changed.base is base.base
    assert live.load(delta).version == made.version, "once more, of the same base"
    live.load(exports[1])
    with pytest.raises(ConfigError, match=f"got since {base.version}"):
        live.load(delta)


def test_a_delta_that_comes_late_does_not_go_back(exports: tuple[Path, Path], tmp_path: Path) -> None:
    live = make_live()
    base = live.load(exports[0]).version
    early, late, other = (
        write_delta(tmp_path / name, exports[0], step, run)
        for name, step, run in (("early", 2, "small"), ("late", 3, "small"), ("other", 1, "tuned"))
    )
    live.load(early)
    served = live.load(late)
    with pytest.raises(ConfigError, match=rf"up to step 3, which is served.*up to step 2; to go back, .* {base} first"):
        live.load(early)
    assert live.running is served
    assert live.load(other).export.run == "tuned", "steps of another run are not to be compared"
    live.load(exports[0])
    assert live.load(early).export.step == 2


def test_what_it_tells_of_itself(exports: tuple[Path, Path]) -> None:
    running = make_live(max_candidates=7, max_events=9).load(exports[0])
    tree = running.described()
    assert tree["version"] == running.version and tree["tasks"] == ["click", "buy"]
    assert (tree["user"], tree["time"], tree["max_candidates"], tree["max_events"]) == ("user", "time", 7, 9)
    columns = {of["name"]: of for of in tree["columns"]}
    assert columns["history.item"] == {
        "name": "history.item",
        "part": "history",
        "type": "list<item: uint8>",
        "values": 50,
    }
    assert columns["candidate.kind"]["part"] == "candidates" and columns["user"]["part"] == "request"
    assert all(len(running.example[name]) <= EXAMPLE_EVENTS for name in EVENTS)
    rows = [running.service.reader.request(running.example)]
    assert isinstance(running.service.handle([rows])[0], list)

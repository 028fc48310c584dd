"""Every tile of the table becomes machine code that keeps its numbers in registers, on a machine without a GPU."""

import os
import subprocess
import sys

import pytest

from benchmarks.aot.attention import Build, builds
from benchmarks.aot.compile import Used
from dist_rec.kernels.cross_causal_attention.tile_table import Tile, tile_table

_CLEAN = {"HGMMA": 8, "HMMA": 0, "UTCHMMA": 0, "LDL": 0, "STL": 0, "LDGSTS": 4}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("bits", [16, 32])
def test_every_tile_compiles_without_spills(architecture: int, bits: int) -> None:
    """In a process of its own: kernels that were imported for the interpreter cannot be compiled. Prints registers and
    shared memory of every build (pytest -s). Compiled with all mask options, which need the most registers."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    module = "benchmarks.aot.attention"
    command = [sys.executable, "-W", "ignore", "-m", module, "--arch", str(architecture), "--bits", str(bits)]
    command += ["--hardest"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(ran.stdout)
    complaints = [line for line in ran.stdout.splitlines() if "<-" in line]
    assert ran.returncode == 0, "\n".join([*complaints, ran.stderr])
    assert len(ran.stdout.splitlines()) == sum(build.masked for build in builds(architecture, bits))


def test_builds_are_all_tiles_with_and_without_mask_options() -> None:
    found = list(builds(90, 16))
    entry = tile_table()[90, 16][64]
    tiles = [*entry.forward.values(), *entry.one_pass.values(), entry.queries, entry.keys]
    assert [build.tile for build in found if build.head == 64 and not build.masked] == tiles
    joins = [build.kernel for build in found if build.head == 64 and build.kernel in ("combine", "sum_parts")]
    assert joins == ["combine", "sum_parts"]
    assert len(found) == sum(2 * (len(e.forward) + len(e.one_pass) + 2) + 2 for e in tile_table()[90, 16].values())


def test_statistics_of_rows_are_built_in_32_bits_with_every_shape_of_a_backward() -> None:
    for architecture in (80, 90, 100):
        assert not any(build.kernel == "statistics" for build in builds(architecture, 16))
        found = [build for build in builds(architecture, 32) if build.kernel == "statistics"]
        for head, entry in tile_table()[architecture, 32].items():
            for masked in (False, True):
                tiles = [build.tile for build in found if (build.head, build.masked) == (head, masked)]
                backward = [*entry.one_pass.values(), entry.queries]
                assert {(tile.rows, tile.keys) for tile in tiles} == {(tile.rows, tile.keys) for tile in backward}


@pytest.mark.parametrize(
    ("used", "complaint"),
    [
        (Used(255, 40, 1024, _CLEAN), "spills: 40 bytes of stack"),
        (Used(255, 0, 1024, _CLEAN | {"LDL": 3}), "3 local loads"),
        (Used(100, 0, 300 * 1024, _CLEAN), "shared memory"),
        (Used(100, 0, 1024, _CLEAN | {"HGMMA": 0, "HMMA": 64}), "no wgmma"),
    ],
)
def test_says_what_is_wrong_with_a_build(used: Used, complaint: str) -> None:
    build = Build(90, 16, 64, "forward", Tile(64, 64, 4, 3), masked=False)
    assert not build.complaints(Used(100, 0, 1024, _CLEAN))
    assert [complaint in line for line in build.complaints(used)] == [True]


def test_few_rows_need_no_wgmma() -> None:
    build = Build(90, 16, 64, "forward", Tile(16, 64, 4, 3), masked=False)
    assert not build.complaints(Used(100, 0, 1024, _CLEAN | {"HGMMA": 0, "HMMA": 64}))

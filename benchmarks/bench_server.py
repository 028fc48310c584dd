"""Latency of a server with and without kept states of users, against the load that is offered.

    python -m benchmarks.bench_server [--length 1000] [--candidates 50] [--users 64] [--seconds 8]

A LONGER with weights of chance and the histories of a ladder's cell (ladder/cell.py) is exported and served in a
process of its own, on this machine's loopback, beside the generator of load. `kept`: requests without history, for
users that the server has. `whole`: every request brings its history, and nothing is kept. First both under a closed
loop, which tells what they can do; then under open loops at shares of what `whole` can."""

import argparse
import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from benchmarks.ladder.cell import Cell
from benchmarks.serve_load import Connection, Load, bodies_of, closed_loop, open_loop
from benchmarks.serving.forms import Forms
from dist_rec.common.provenance import provenance_lines, versions
from dist_rec.serve.folder import DENSE, MODEL, TABLES, Export, ModelFile, TableFile
from dist_rec.serve.reference import Reference, as_requests
from dist_rec.serve.tables import PlainRows

SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", default="1000")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    print("\n".join(provenance_lines()) + "\n")
    with TemporaryDirectory() as folder:
        cell = Cell("longer", options.length, options.candidates, merge=1, batch=options.users, steps=1)
        export = write_export(Forms.of(cell), Path(folder) / "export")
        bodies = {"kept": bodies_of(export, kept=True), "whole": bodies_of(export)}
        most: dict[str, float] = {}
        print("| requests | loop | offered/s | scored/s | p50 ms | p95 ms | p99 ms | refused |")
        print("|---|---|---|---|---|---|---|---|")
        for name, of in bodies.items():
            with served(export, kept=name == "kept") as url:
                asyncio.run(each_once(url, bodies["whole"]))
                load = asyncio.run(closed_loop(url, of, options.connections, options.seconds))
                most[name] = load.per_s
                print(line(name, f"closed, {options.connections} connections", None, load), flush=True)
        for share in SHARES:
            for name, of in bodies.items():
                with served(export, kept=name == "kept") as url:
                    asyncio.run(each_once(url, bodies["whole"]))
                    rate = share * most["whole"]
                    load = asyncio.run(open_loop(url, of, rate, options.seconds))
                    print(line(name, f"open, {share:.0%} of whole", rate, load), flush=True)
        rate = 0.75 * most["kept"]
        with served(export, kept=True) as url:
            asyncio.run(each_once(url, bodies["whole"]))
            load = asyncio.run(open_loop(url, bodies["kept"], rate, options.seconds))
            print(line("kept", "open, 75% of kept", rate, load), flush=True)


async def each_once(url: str, bodies: list[bytes]) -> None:
    """After it, the server has every user."""
    connection = Connection(url)
    for body in bodies:
        assert await connection.ask(body) == "200"
    connection.close()


def line(name: str, loop: str, rate: float | None, load: Load) -> str:
    refused = sum(count for code, count in load.codes.items() if code != "200")
    ms = " | ".join(f"{load.percentile(q):.1f}" for q in (50, 95, 99))
    return f"| {name} | {loop} | {'' if rate is None else f'{rate:.0f}'} | {load.per_s:.0f} | {ms} | {refused} |"


@contextmanager
def served(export: Path, *, kept: bool) -> Iterator[str]:
    """The address of a server of its own; without `kept` it has no room for states."""
    command = [sys.executable, "-m", "dist_rec.cli", "serve", str(export), "--port", "0"]
    command += [] if kept else ["--cache-mb", "0"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for said in process.stdout:
        if found := re.search(r"http://[\d.]+:\d+", said):
            url = found[0]
            for _ in range(100):
                try:
                    urllib.request.urlopen(f"{url}/readyz").close()
                    return url
                except OSError:
                    time.sleep(0.1)
    raise RuntimeError("the server did not start")


def write_export(forms: Forms, folder: Path) -> Path:
    """The engine of the forms as an export; its requests are the reference."""
    (folder / TABLES).mkdir(parents=True)
    engine = forms.engine
    tables: dict[str, TableFile] = {}
    for name, reader in engine.tables.readers.items():
        assert isinstance(reader, PlainRows), "made so"
        save_file({"weight": reader.weight}, folder / TABLES / f"{name}.safetensors")
        tables[name] = TableFile(stored="fp32", rows=len(reader.weight), dim=reader.weight.shape[1])
    save_file({name: of.contiguous() for name, of in engine.halves.ranker.state_dict().items()}, folder / DENSE)
    made = ModelFile(
        schema_=engine.schema.model_dump(mode="json"),
        model=engine.halves.ranker.config.model_dump(mode="json"),
        max_length=engine.max_length,
        dedup=True,
        tables=tables,
    )
    (folder / MODEL).write_text(made.model_dump_json())
    logits = engine.score_whole(forms.asked).logits.tolist()
    Reference(requests=as_requests(forms.asked), trainer=logits, exported=logits).write(folder)
    Export.of(folder, "chance", run="bench", step=0, requests=None, versions=versions()).write(folder)
    return folder


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

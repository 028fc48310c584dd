"""Kernels of the models that gpu.sh trains and of the attention it measures, compiled on a machine without a GPU, and
taken along to one that has one.

    python -m benchmarks.warm_cache make --arch 90 80 --out .gpu/triton [--triton FOLDER]
    python -m benchmarks.warm_cache take .gpu/triton --into ~/.triton/cache

Triton finds a kernel by a key of its source, types, options and target, of Triton's version, and of every file of the
installed Triton, its library among them. That library is another one for every version of Python. So `make` has to run
with the Triton version of the machine with the GPU, and if that machine has another Python, with `--triton FOLDER`:
the folder `triton` of the wheel that is installed there, unpacked. The rest of the key holds no path and nothing of the
machine. `take` compares the keys of both installations and says in one sentence what it did; a kernel whose source has
changed since is not found, and compiled there. Paths inside the files, which are absolute, are written anew.

What Triton builds with the C compiler (its driver, and up to version 3.6 a launcher for each signature) is not in it.
"""

import argparse
import builtins
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime import cache

ROOT = Path(__file__).parents[1]
ABOUT = "warm_cache.json"
ARCHITECTURES = (80, 90)
# (width, merge) of what benchmarks/gpu_steps.py trains in the stages of gpu.sh.
MODELS = ((64, 1), (32, 4))
# Requests of a shape of the attention benchmark: as many fill every GPU, and more make no other kernel.
REQUESTS = 256


def installation(other: Path | None = None) -> str:
    """What the installed Triton adds to the key of every kernel, hashed; of `other`, the folder `triton` of another
    build of the same version, without running it."""
    parts = [cache.triton_key(), *(make_backend(GPUTarget("cuda", arch, 32)).hash() for arch in ARCHITECTURES)]
    if other is not None:
        parts[0] = key_of(other)
    return hashlib.sha256("-".join(parts).encode()).hexdigest()[:12]


def key_of(other: Path) -> str:
    """`triton_key()` as the Triton in the folder `other` would give it: the same files, read there.

    Raises SystemExit for a folder that is no Triton of this version.
    """
    own = str(Path(triton.__file__).parent)
    version = _version(other)
    if version != triton.__version__:
        sys.exit(
            f"--triton {other}: expected the folder `triton` of version {triton.__version__}, which compiles here, got "
            f"{version or 'none'}; install that version here, in an environment of its own"
        )

    def elsewhere(file: Any, *mode: Any) -> Any:
        return builtins.open(str(file).replace(own, str(other), 1), *mode)

    with mock.patch.object(cache, "open", elsewhere, create=True):
        return cache.triton_key.__wrapped__()


def _version(folder: Path) -> str:
    init = folder / "__init__.py"
    lines = init.read_text().splitlines() if init.is_file() else []
    return next((line.split("'")[1] for line in lines if line.startswith("__version__ = '")), "")


def sources() -> str:
    """Of all files with kernels, hashed: every line of one is in the keys of its kernels."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


def make(
    out: Path, architectures: list[int], other: Path | None, models: list[tuple[int, int]], shapes: list[str]
) -> str:
    """Fills `out` with kernels of models (width, merge) and of attention at shapes by name; for a process of its own,
    whose Triton compiles and never launches."""
    from benchmarks.aot import recording_driver  # here: `take` needs neither kernels nor models

    out.mkdir(parents=True, exist_ok=True)
    knobs.cache.dir, knobs.compilation.store_binary_only = str(out.resolve()), True
    key = key_of(other) if other is not None else cache.triton_key()
    built = 0
    with mock.patch.object(cache, "triton_key", lambda: key), tempfile.TemporaryDirectory() as folder:
        for architecture in architectures:
            recording_driver.install(architecture)
            with recording_driver.as_on_a_gpu(architecture):
                built += sum(_compile(Path(folder), width, merge) for width, merge in models)
                built += _compile_attention(shapes)
    about = {
        "triton": triton.__version__,
        "installation": installation(other),
        "sources": sources(),
        "architectures": architectures,
    }
    (out / ABOUT).write_text(json.dumps(about) + "\n")
    names = ", ".join(f"sm_{architecture}" for architecture in architectures)
    return f"{built} kernels for {names} by Triton {about['triton']} ({about['installation']}) in {out}"


def _compile(folder: Path, width: int, merge: int) -> int:
    """All kernels that the training of a model of gpu_steps.py may launch, and how many there are."""
    import torch

    from benchmarks import bench_ledger, gpu_steps
    from dist_rec.data.schema_file import load_schema
    from dist_rec.data.synthetic.history import SynthConfig, synthesize
    from dist_rec.embedding.tables import table_dims
    from dist_rec.models.ranker import Ranker
    from dist_rec.training.run_log import RunLog
    from dist_rec.training.warm_up import run_without_launches

    data = folder / "data"
    if not data.is_dir():
        synthesize(data, SynthConfig(requests=50, max_length=20))
    options = gpu_steps.arguments().parse_args(["--out", str(folder), "--width", str(width), "--merge", str(merge)])
    config = gpu_steps.recipe(options, data)
    half = config.model.model_validate(config.model.model_dump() | {"precision": bench_ledger.HALF})
    config = config.model_copy(update={"model": half})
    schema = load_schema(data)
    ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
    log = RunLog(folder / "log", is_main=False)
    return run_without_launches(ranker, schema, config, torch.device("cpu"), log)


def _compile_attention(names: list[str]) -> int:
    """The kernels of the attention benchmark at some of its shapes, forward and backward, and how many there are."""
    import torch

    from benchmarks.attention.cases import SHAPES, make_problem
    from benchmarks.attention.peers import ours, repeat_history
    from dist_rec.kernels.common.compile_ahead import compiling_ahead, noticing_builds

    built: list[str] = []
    with noticing_builds(built.append), compiling_ahead(os.cpu_count() or 1, lambda *_: None):
        for shape in SHAPES:
            if shape.name not in names:
                continue
            few = replace(shape, requests=min(shape.requests, REQUESTS))
            problem = make_problem(few, "fixed", torch.bfloat16, torch.device("cpu"))
            for form in (problem, *([repeat_history(problem)] if shape.candidates else [])):
                leaves = tuple(x.requires_grad_() for x in (form.q, form.k, form.v))
                torch.autograd.grad(ours(form)(*leaves), leaves, form.grad)
    return len(built)


def take(warm: Path, into: Path) -> str:
    """Copies the kernels of `warm` into Triton's cache `into`, beside what is there; the sentence that says so, or why
    not."""
    if not (warm / ABOUT).is_file():
        return f"no warm Triton cache in {warm}: kernels are compiled here (benchmarks/warm_cache.py makes one)"
    about, here = json.loads((warm / ABOUT).read_text()), installation()
    if about["installation"] != here:
        return (
            f"the warm Triton cache in {warm} is left alone: it was made for Triton {about['triton']} "
            f"({about['installation']}), and here is {triton.__version__} ({here}); kernels are compiled here"
        )
    kernels = [folder for folder in warm.iterdir() if folder.is_dir()]
    new = [folder for folder in kernels if not (into / folder.name).exists()]
    for folder in new:
        _copy(folder, into)
    names = ", ".join(f"sm_{architecture}" for architecture in about["architectures"])
    since = "" if about["sources"] == sources() else "; kernels/ has changed since, and what changed is compiled here"
    return f"{len(new)} of {len(kernels)} warm kernels for {names} are new in {into}{since}"


def _copy(folder: Path, into: Path) -> None:
    """Under another name until complete: another process may look for the kernel now."""
    into.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=into))
    shutil.copytree(folder, partial, dirs_exist_ok=True)
    place = (into / folder.name).absolute()
    for group in partial.glob("__grp__*"):
        files = json.loads(group.read_text())["child_paths"]
        group.write_text(json.dumps({"child_paths": {name: str(place / name) for name in files}}))
    os.rename(partial, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--arch", type=int, nargs="+", default=[90], choices=ARCHITECTURES)
    making.add_argument("--out", type=Path, default=Path(".gpu/triton"))
    making.add_argument("--triton", type=Path, help="The folder `triton` of the build on the machine with the GPU.")
    taking = commands.add_parser("take")
    taking.add_argument("warm", type=Path)
    taking.add_argument("--into", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "take":
        print(take(options.warm, options.into))
    elif os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 interprets kernels; expected it unset, so that they are compiled")
    else:
        from benchmarks.attention.cases import SHAPES

        print(make(options.out, options.arch, options.triton, list(MODELS), [shape.name for shape in SHAPES]))


if __name__ == "__main__":
    main()

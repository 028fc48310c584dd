"""`dist-rec export`: a checkpoint -> a folder that scores without the trainer (serve/folder.py)."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from dist_rec.common.made import check_replaceable, mark, replace
from dist_rec.common.provenance import versions
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.attribute_store import FOLDER as ATTRIBUTES
from dist_rec.data.schema import Schema
from dist_rec.export.changes import keep_changes
from dist_rec.export.program_files import Kind, write_programs
from dist_rec.export.read_checkpoint import Weights
from dist_rec.export.requests import as_asked, first_requests
from dist_rec.predict.columns import LOGIT
from dist_rec.predict.predictor import load_model
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.folder import DENSE, KIND, MODEL, Export, ModelFile, read_model
from dist_rec.serve.load import OF_FEEDBACK, build_engine
from dist_rec.serve.reference import Reference, as_requests
from dist_rec.serve.tables import Stored
from dist_rec.training.evaluate import served_schema
from dist_rec.training.manifest import Manifest

REFERENCES = 100


@dataclass(frozen=True)
class Wanted:
    """- `out`: folder of the export, new or an earlier one
    - `data`: folder of requests for the reference; None: the recipe's test split, or that of validation
    - `tables`: how rows are stored, which is a loss for all but fp32
    - `programs`: kinds of programs (program_files.py), where the model can be one
    - `base`: an export of earlier weights; then only what has changed since is written, a delta (serve/delta.py), and
      rows are stored as there
    """

    out: Path
    data: Path | None = None
    tables: Stored = "fp32"
    base: Path | None = None
    programs: tuple[Kind, ...] = ("torch",)


def export_model(config: Config, checkpoint: Path, wanted: Wanted) -> list[str]:
    """Writes the folder, loads it as a server does and compares its scores with the trainer's. Lines of what was done.

    Raises:
        ConfigError: the checkpoint is none, is damaged, or does not fit the recipe; the recipe's filter acts when
            candidates are scored.
        DataError: the requests cannot be read.
        NotOurs: the folder is there and no unchanged export.
        OSError: the folder cannot be written.
    """
    if config.data.filter is not None and config.data.filter.evaluation == "filtered":
        raise ConfigError(
            "data.filter.evaluation: an export scores all events, this recipe's model is judged on filtered ones; "
            "expected as_is, or a recipe without data.filter"
        )
    check_replaceable(wanted.out, KIND)
    before = None
    if wanted.base is not None:
        before = Export.read(wanted.base)
        before.check(wanted.base)
        stored = {of.stored for of in read_model(wanted.base).tables.values()}
        if before.base is not None or stored != {wanted.tables}:
            what = "a delta" if before.base is not None else f"tables in {', '.join(sorted(stored))}"
            raise ConfigError(f"{wanted.base}: expected a whole export with tables in {wanted.tables}, got {what}")
    trained = served_schema(config, checkpoint).without_labels()
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".half-{wanted.out.name}-", dir=wanted.out.parent))
    try:
        half.chmod(0o755)
        lost, programs = _write(config, checkpoint, trained, wanted, half)
        if wanted.base is not None:
            keep_changes(half, wanted.base)
        manifest = Manifest.read(checkpoint)
        export = Export.of(
            half,
            manifest.sha256,
            base=None if before is None else before.version,
            run=config.run.name,
            step=manifest.step,
            requests=manifest.requests,
            versions=versions(),
        )
        export.write(half)
        mark(half, KIND)
        replace(wanted.out, half, KIND)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    size = sum(of.size for of in export.files.values())
    what = "" if before is None else f", changes since {before.version} of step {before.step}"
    return [
        f"{wanted.out}: version {export.version}, {size / 2**20:.1f} MiB, tables in {wanted.tables}{what}",
        f"farthest logit from the trainer's: {lost:.2e}",
        programs,
    ]


def _write(config: Config, checkpoint: Path, trained: Schema, wanted: Wanted, folder: Path) -> tuple[float, str]:
    """Everything but the manifest. Returns how far the farthest logit is from the trainer's, and a line of programs."""
    served, weights = serving_schema(trained), Weights.of(checkpoint)
    used = set(served.layout.tables.values())
    tables = {name: weights.write_table(name, wanted.tables, folder) for name in weights.tables if name in used}
    for name in sorted(used & served.open_ids.keys()):
        if served.open_ids[name] == "dynamic":
            weights.write_ids(name, served, folder)
    dense = {name: of for name, of in weights.dense().items() if not name.startswith(OF_FEEDBACK)}
    save_file(dense, folder / DENSE)
    if served.attributes:
        shutil.copytree(Path(config.data.path) / ATTRIBUTES, folder / ATTRIBUTES)
    made = ModelFile(
        schema_=served.model_dump(mode="json"),
        model=config.model.model_dump(mode="json"),
        max_length=config.data.max_length,
        dedup=config.data.dedup,
        tables=tables,
    )
    (folder / MODEL).write_text(made.model_dump_json(indent=1) + "\n")
    requests = first_requests(config, trained, _data_of(config, wanted), REFERENCES)
    asked, _ = as_asked(requests, trained, served)
    with load_model(checkpoint, config, device="cpu") as model:
        found = model.predict(requests, logits=True)
    columns = [
        found.column(f"{LOGIT}.{task}").combine_chunks().flatten().to_numpy() for task in served.candidate.labels
    ]
    trainer = torch.from_numpy(np.stack(columns, axis=1))
    if asked.num_rows > REFERENCES:  # candidates that see a part of the events, each a request of its own
        some = np.linspace(0, asked.num_rows - 1, REFERENCES).astype(np.int64)
        asked, trainer = asked.take(pa.array(some)).combine_chunks(), trainer[torch.from_numpy(some)]
    engine = build_engine(folder, "", made, "fp32", deterministic=False)
    exported = engine.score_whole(asked).logits
    reference = Reference(requests=as_requests(asked), trainer=trainer.tolist(), exported=exported.tolist())
    reference.write(folder)
    told = "no programs" if not wanted.programs else write_programs(engine, asked, folder, wanted.programs)
    return reference.lost, told


def _data_of(config: Config, wanted: Wanted) -> Path:
    if wanted.data is not None:
        return wanted.data
    splits = [*config.data.test, *config.data.valid, *config.data.train]
    if not splits:
        raise ConfigError("--data: the recipe names no split; expected a folder of requests for the reference")
    return Path(config.data.path) / splits[0]

"""What has changed since an export, applied to the engine that has it: new weights in seconds, without the tables."""

from pathlib import Path

from dist_rec.common.strict import ConfigError
from dist_rec.serve.folder import Export, read_model
from dist_rec.serve.load import Loaded, Precision, build_engine
from dist_rec.serve.reference import check_reference


def apply_delta(loaded: Loaded, folder: str | Path, *, precision: Precision = "fp32") -> Loaded:
    """Another engine, with the changes of a folder made by `dist-rec export --delta`. The first one stays as it is.

    A delta is made from one version alone: a whole export, of which it holds all changes. So deltas of one base may be
    left out, and each of them is applied to what was loaded from the base.

    Raises ConfigError if the folder is no delta, is damaged, is of another version, or scores differently here."""
    folder = Path(folder)
    export = Export.read(folder)
    if export.base is None:
        raise ConfigError(f"{folder}: expected what has changed since an export, got a whole one")
    if export.base != loaded.export.version:
        raise ConfigError(
            f"{folder}: expected what has changed since version {loaded.export.version}, got since {export.base}"
        )
    export.check(folder)
    engine = build_engine(
        folder,
        export.version,
        read_model(folder),
        precision,
        deterministic=loaded.engine.deterministic,
        before=loaded.engine.tables.readers,
    )
    return Loaded(engine, export, check_reference(engine, folder, precision))

"""Importers of data sets that are logs: each is a build file beside this one, for the files as they are published, or
for flat tables made of them where the builder cannot read them."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dist_rec.common.strict import Strict
from dist_rec.data.build.build import build_dataset, load_build
from dist_rec.data.errors import writing
from dist_rec.data.importers.source import Importer, ImportSummary, check_outside


class BuiltOptions(Strict):
    histories: Literal["copies", "once"] | None = Field(
        default=None, description="As in a build file; None: as in that of the importer."
    )
    memory: str = Field(default="2GB", description="The most that the joins hold in memory.")


class BuiltImporter(Importer):
    """Base of importers with a build file."""

    Config: ClassVar[type[Strict]] = BuiltOptions

    def built(self, file: str, folder: Path, source: Path, out: Path | None, *, force: bool) -> ImportSummary:
        """Builds the dataset of the build file `file` beside this one from what is in `folder`.

        Raises DataError if that would replace `source`, and what `build_dataset` raises."""
        assert isinstance(self.options, BuiltOptions), "made with them"
        config = load_build(Path(__file__).parent / file)
        if self.options.histories is not None:
            config = config.model_copy(update={"histories": self.options.histories})
        out = out or Path("data") / config.name
        check_outside(source, out)
        report = build_dataset(config, out, folder=folder, memory=self.options.memory, force=force)
        rows = {name: of.requests for name, of in report.splits.items()}
        candidates = {name: of.candidates for name, of in report.splits.items()}
        return ImportSummary(config.name, out, rows, candidates, report.dropped)


class PublishedImporter(BuiltImporter):
    """Base of those whose build file reads the files as they are."""

    file: ClassVar[str]

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        return self.built(self.file, source, source, out, force=force)


@dataclass(frozen=True)
class Parsed:
    """Tables by the names that the build file `file` reads them under, without `.parquet`, and rows that were left out
    by reason."""

    file: str
    tables: Mapping[str, pa.Table]
    dropped: dict[str, int] = field(default_factory=dict)


class ParsedImporter(BuiltImporter):
    """Base of those that make flat tables of the files first."""

    def parsed(self, source: Path) -> Parsed:
        """Raises DataError for missing files and malformed lines."""
        raise NotImplementedError

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        found = self.parsed(source)
        with tempfile.TemporaryDirectory(prefix="dist_rec-") as folder:
            for name, table in found.tables.items():
                with writing(Path(folder)):
                    pq.write_table(table, Path(folder) / f"{name}.parquet")
            summary = self.built(found.file, Path(folder), source, out, force=force)
        return replace(summary, dropped=found.dropped | summary.dropped)


class KuaiRand(PublishedImporter):
    """KuaiRand-Pure, -1K or -27K, from the folder with its CSV files."""

    file = "kuairand.yaml"


class EbNerd(PublishedImporter):
    """A bundle of EB-NeRD, from the folder with articles.parquet."""

    file = "ebnerd.yaml"

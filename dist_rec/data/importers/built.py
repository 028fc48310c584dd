"""Importers of data sets that are logs: each is a build file beside this one, for the files as they are published."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from dist_rec.common.strict import Strict
from dist_rec.data.build.build import build_dataset, load_build
from dist_rec.data.importers.source import Importer, ImportSummary, check_outside


class BuiltOptions(Strict):
    histories: Literal["copies", "once"] | None = Field(
        default=None, description="As in a build file; None: as in that of the importer."
    )
    memory: str = Field(default="2GB", description="The most that the joins hold in memory.")


class BuiltImporter(Importer):
    """Base of importers with a build file."""

    Config: ClassVar[type[Strict]] = BuiltOptions
    file: ClassVar[str]

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        assert isinstance(self.options, BuiltOptions), "made with them"
        config = load_build(Path(__file__).parent / self.file)
        if self.options.histories is not None:
            config = config.model_copy(update={"histories": self.options.histories})
        out = out or Path("data") / config.name
        check_outside(source, out)
        report = build_dataset(config, out, folder=source, memory=self.options.memory, force=force)
        rows = {name: of.requests for name, of in report.splits.items()}
        candidates = {name: of.candidates for name, of in report.splits.items()}
        return ImportSummary(config.name, out, rows, candidates, report.dropped)


class KuaiRand(BuiltImporter):
    """KuaiRand-Pure, -1K or -27K, from the folder with its CSV files."""

    file = "kuairand.yaml"


class EbNerd(BuiltImporter):
    """A bundle of EB-NeRD, from the folder with articles.parquet."""

    file = "ebnerd.yaml"

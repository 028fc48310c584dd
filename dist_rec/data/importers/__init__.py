"""Importers of public datasets. They read the original files, plain or packed with xz, and download nothing."""

from dist_rec.data.importers.assist import import_assist
from dist_rec.data.importers.movielens import import_movielens
from dist_rec.data.importers.source import ImportSummary

__all__ = ["ImportSummary", "import_assist", "import_movielens"]

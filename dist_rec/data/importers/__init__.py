"""Importers of public datasets. They read the original files, plain or packed with xz, and download nothing."""

from dist_rec.data.importers.assist import Assist
from dist_rec.data.importers.built import EbNerd, KuaiRand
from dist_rec.data.importers.movielens import MovieLens
from dist_rec.data.importers.source import Importer, ImportSummary

__all__ = ["Assist", "EbNerd", "ImportSummary", "Importer", "KuaiRand", "MovieLens"]

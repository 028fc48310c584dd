"""Recipes and clusters for the tests of memory: a schema of large tables and none of its data."""

from pathlib import Path
from typing import Any

from dist_rec.config import Config
from dist_rec.cost.machine import Machine, machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.requests import Described, described
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from tests.data.requests import make_schema
from tests.training.runs import make_config

SCHEMA = make_schema(tables={"item": 40_000, "kind": 50, "user": 1000, "query": 10_000})
H100 = machine_of("h100-80gb")


def config_of(**changes: Any) -> Config:
    return make_config(Path("nowhere"), Path("nowhere"), **changes)


def cluster_of(ranks: int, machine: Machine = H100) -> Cluster:
    return Cluster(machine, network_of("ib400"), ranks)


def batch_of(config: Config, schema: Schema = SCHEMA, *, length: int = 30) -> HostBatch:
    of = Described(length=length, candidates=2, duplicates=0.5)
    return described(schema, config.data.batch_size, None, of).batch(schema)

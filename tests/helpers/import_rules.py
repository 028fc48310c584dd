"""What each part of the project may import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What a part may import: modules of the project and of others, each with what is below it; `never` wins.

    `types`: what it may import under `if TYPE_CHECKING:` besides, where nothing is loaded.
    """

    project: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def allows(self, targets: list[str], *, for_types: bool) -> bool:
        if any(within(target, self.never) for target in targets):
            return False
        allowed = self.project + self.others + (self.types if for_types else ())
        return any(within(target, allowed) for target in targets)


OPTIONS = ("dist_rec.data.filter.config", "dist_rec.distill.config", "dist_rec.models.config")  # of a recipe, no torch
RULES = {
    # dist_rec/__init__.py: importing the package loads nothing, names come when they are used.
    "dist_rec": Rule(types=("dist_rec.api", "dist_rec.config", "dist_rec.predict", "dist_rec.registry")),
    "dist_rec.common": Rule(others=("numpy", "pydantic", "torch", "yaml")),
    "dist_rec.registry": Rule(project=("dist_rec.common.strict",), others=("pydantic",)),
    "dist_rec.config": Rule(
        project=("dist_rec.common", "dist_rec.registry", "dist_rec.run_config", *OPTIONS), others=("pydantic",)
    ),
    "dist_rec.run_config": Rule(project=("dist_rec.common.strict", "dist_rec.registry"), others=("pydantic",)),
    "dist_rec.kernels": Rule(others=("torch", "triton"), never=("torch.distributed",)),
    "dist_rec.data": Rule(
        # Of the kernels what a batch carries: the packed index, the places of its rows, and the ids of n-grams.
        project=(
            *("dist_rec.common", "dist_rec.registry"),
            *("dist_rec.kernels.unique_ids", "dist_rec.kernels.jagged_range", "dist_rec.kernels.ngram_ids"),
        ),
        others=(
            *("numpy", "pyarrow", "torch", "torchdata", "torchrec.sparse", "torchrec.streamable", "rich"),
            *("pydantic", "yaml"),  # the schema is a YAML file that pydantic checks
            "duckdb",  # of data.build
            *("matplotlib.axes", "matplotlib.figure"),  # of data.survey
        ),
    ),
    "dist_rec.embedding": Rule(
        project=(
            *("dist_rec.common.strict", "dist_rec.config", "dist_rec.registry", "dist_rec.kernels.gather_pool"),
            *("dist_rec.common.lazy", "dist_rec.data.schema", "dist_rec.data.unique_features"),
            *("dist_rec.common.ngram", "dist_rec.data.ngram.features", "dist_rec.common.open_ids"),
        ),
        others=("torch", "torchrec", "fbgemm_gpu"),
    ),
    "dist_rec.distill": Rule(
        project=("dist_rec.common", "dist_rec.config", "dist_rec.data"), others=("numpy", "pydantic", "torch")
    ),
    "dist_rec.models": Rule(
        project=(
            *("dist_rec.common.strict", "dist_rec.config", "dist_rec.registry", "dist_rec.kernels"),
            *("dist_rec.data.batch", "dist_rec.data.lengths", "dist_rec.data.schema", "dist_rec.data.slots"),
            *("dist_rec.data.attributes", "dist_rec.data.kinds", "dist_rec.data.numbers", "dist_rec.data.owners"),
            *("dist_rec.data.later", "dist_rec.distill", "dist_rec.common.ngram"),
            *("dist_rec.embedding.tables", "dist_rec.embedding.unique", "dist_rec.embedding.ngram_fusion"),
        ),
        others=("numpy", "pydantic", "pydantic_core", "torch"),
        never=("torch.distributed",),
    ),
    "dist_rec.optim": Rule(project=("dist_rec.common.choices", "dist_rec.config"), others=("torch", "torchrec.optim")),
    "dist_rec.training": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config", "dist_rec.registry", "dist_rec.run_config"),
            *("dist_rec.data", "dist_rec.distill", "dist_rec.embedding", "dist_rec.models", "dist_rec.optim"),
            "dist_rec.kernels.common",  # compiled before the first step
        ),
        others=(
            *("torch", "torchdata", "torchrec.distributed", "numpy", "matplotlib.figure", "rich"),
            *("pydantic", "yaml"),  # what a checkpoint was made with, and the recipe in a report
        ),
    ),
    "dist_rec.cost": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config", "dist_rec.registry", "dist_rec.training"),
            *("dist_rec.data", "dist_rec.embedding", "dist_rec.kernels", "dist_rec.models", "dist_rec.optim"),
        ),
        others=("numpy", "pyarrow", "pydantic", "rich", "torch", "torchrec.distributed.train_pipeline"),
    ),
    "dist_rec.runs": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config"),
            *("dist_rec.data.errors", "dist_rec.data.older_words", "dist_rec.data.page"),
            *("dist_rec.training.about", "dist_rec.training.made_with", "dist_rec.training.metrics"),
            "dist_rec.training.result",
        ),
        others=("numpy", "pydantic", "rich", "matplotlib.axes", "matplotlib.figure"),
    ),
    "dist_rec.probe": Rule(
        project=(
            *("dist_rec.common", "dist_rec.data"),
            *("dist_rec.kernels.cross_causal_attention", "dist_rec.models.layers"),
        ),
        others=("numpy", "pyarrow", "pydantic", "safetensors", "torch", "yaml"),
    ),
    "dist_rec.predict": Rule(
        project=("dist_rec.common", "dist_rec.config", "dist_rec.data", "dist_rec.embedding", "dist_rec.training"),
        others=("numpy", "pyarrow", "pydantic", "rich", "torch", "torchdata"),
    ),
    "dist_rec.export": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config", "dist_rec.registry", "dist_rec.data", "dist_rec.models"),
            *("dist_rec.embedding.rows", "dist_rec.kernels", "dist_rec.predict", "dist_rec.serve"),
            "dist_rec.training",
        ),
        others=("numpy", "pyarrow", "safetensors", "torch"),
        never=("dist_rec.serve.server",),
    ),
    # What runs where nothing of the trainer is installed.
    "dist_rec.serve": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config", "dist_rec.data", "dist_rec.models", "dist_rec.kernels"),
            *("dist_rec.predict.columns", "dist_rec.predict.rows"),
        ),
        others=("numpy", "pyarrow", "pydantic", "safetensors", "torch", "redis"),
        never=("dist_rec.serve.server", "torch.distributed"),
    ),
    "dist_rec.serve.server": Rule(
        project=("dist_rec.common", "dist_rec.data.columns", "dist_rec.serve"),
        others=("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic", "pydantic_core", "torch"),
    ),
    "dist_rec.door": Rule(
        project=(
            *("dist_rec.common.strict", "dist_rec.config", "dist_rec.registry", "dist_rec.data", "dist_rec.embedding"),
            *("dist_rec.distill.check", "dist_rec.models.check", "dist_rec.training"),
        ),
    ),
    "dist_rec.api": Rule(project=("dist_rec.config", "dist_rec.door", "dist_rec.registry", "dist_rec.training")),
    "dist_rec.doctor": Rule(
        project=("dist_rec.data._host", "dist_rec.kernels"),
        others=("rich", "torch", "torchrec", "fbgemm_gpu", "triton"),
    ),
    "dist_rec.cli": Rule(
        project=(
            *("dist_rec.common", "dist_rec.config", "dist_rec.registry", "dist_rec.door", "dist_rec.doctor"),
            *("dist_rec.cost", "dist_rec.data", "dist_rec.predict", "dist_rec.probe", "dist_rec.runs"),
            *("dist_rec.training", "dist_rec.data_cli", "dist_rec.distill_cli", "dist_rec.serve_cli"),
        ),
        others=("typer", "rich"),
    ),
    "dist_rec.data_cli": Rule(
        project=("dist_rec.common", "dist_rec.data", "dist_rec.registry"), others=("typer", "rich")
    ),
    "dist_rec.serve_cli": Rule(
        project=("dist_rec.common", "dist_rec.config", "dist_rec.data_cli", "dist_rec.export", "dist_rec.serve"),
        others=("typer",),
    ),
    "dist_rec.distill_cli": Rule(
        project=("dist_rec.common", "dist_rec.config", "dist_rec.training"), others=("typer",)
    ),
}


def within(target: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or below one."""
    return any(target == prefix or target.startswith(prefix + ".") for prefix in prefixes)

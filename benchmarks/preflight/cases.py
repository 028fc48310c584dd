"""The recipes whose memory is predicted and measured, and the data that are made for them."""

from dataclasses import dataclass
from pathlib import Path

from dist_rec.config import Config, load_config
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.synthetic.three import ThreeConfig, synthesize_three

ROOT = Path(__file__).parents[2]
REQUESTS = 6000
# A delayed update from the first step on; nothing beside training.
TRAINED = ["optim.warmup_sync_steps=0", "data.valid=[]", "data.test=[]", "checkpoint.at_end=false"]


@dataclass(frozen=True)
class Case:
    """A recipe, what is said over it, and which data it reads: `history` or `three`."""

    name: str
    recipe: str
    data: str
    overrides: tuple[str, ...] = ()

    def config(self, data: Path, out: Path) -> Config:
        said = [f"data.path={data / self.data}", f"run.out={out}", f"run.name={self.name}", *TRAINED, *self.overrides]
        return load_config(ROOT / "launch" / "recipes" / self.recipe, said)


LARGER = ("data.batch_size=512", "run.epochs=2")
# What a process takes besides tensors is measured on this one, which is none of those that are compared.
SMALLEST = Case("smallest", "quickstart.yaml", "history", ("data.batch_size=2", "run.max_steps=12"))
# What the allocator holds beyond activations, on another model.
OTHER = Case("din", "longer_rankmixer.yaml", "three", (*LARGER, "model.name=din", "model.interaction=concat"))
CASES = (
    Case("quickstart", "quickstart.yaml", "history", ("run.epochs=1",)),
    Case("hyformer", "hyformer.yaml", "three", ("run.epochs=1",)),
    Case("longer_rankmixer", "longer_rankmixer.yaml", "three", ("run.epochs=1",)),
    Case("quickstart-larger", "quickstart.yaml", "history", (*LARGER, "embedding.tables.item.rows=8000000")),
    Case("hyformer-larger", "hyformer.yaml", "three", (*LARGER, "embedding.tables.item.rows=4000000")),
    Case("longer_rankmixer-larger", "longer_rankmixer.yaml", "three", (*LARGER, "embedding.dim=128")),
)


def make_data(folder: Path) -> None:
    """Both data sets, as `dist-rec data synth` makes them."""
    synthesize(folder / "history", SynthConfig(requests=REQUESTS, max_length=400))
    synthesize_three(folder / "three", ThreeConfig(requests=REQUESTS))

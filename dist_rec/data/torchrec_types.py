"""What a batch takes from TorchRec, and stand-ins where it is not installed: a model that is served looks up rows
without it, and reads its requests by the code that read them in training."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING or find_spec("torchrec") is not None:
    # TorchRec's pipelines move and record only batches of these classes.
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    from torchrec.streamable import Multistreamable, Pipelineable
else:

    class Multistreamable:
        """Nobody asks for it."""

    class Pipelineable(Multistreamable):
        """Nobody asks for it."""

    class KeyedJaggedTensor:
        """Nothing is one."""

        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("a batch whose ids TorchRec looks up needs torchrec; it is not installed")


class _NoLookup:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: this batch was made without a lookup; its ids are those of HostBatch.ids_of")


# In the place of the ids of a batch that nobody looks up with TorchRec. By its type it is what training code reads
# there, which need not ask for it in every place.
NO_LOOKUP = cast(KeyedJaggedTensor, _NoLookup())

__all__ = ["NO_LOOKUP", "KeyedJaggedTensor", "Multistreamable", "Pipelineable"]

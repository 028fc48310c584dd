"""Small runs of the parts of training: `python -m dist_rec.doctor.probes NAME [ARGUMENT ...]` prints a line on success.

The doctor runs each probe in its own process, so it can report a library that crashes, hangs or does not import."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta

# Jagged operators that TorchRec's input dist, KeyedJaggedTensor and embedding modules call.
OPERATORS = (
    "asynchronous_complete_cumsum",
    "permute_1D_sparse_data",
    "permute_2D_sparse_data",
    "block_bucketize_sparse_features",
    "expand_into_jagged_permute",
    "segment_sum_csr",
    "jagged_to_padded_dense",
    "bounds_check_indices",
)


def probe_torch() -> str:
    """The doctor parses the first word, the number of GPUs."""
    import torch

    return f"{torch.cuda.device_count() if torch.cuda.is_available() else 0} GPU(s), CUDA {torch.version.cuda}"


def probe_operators() -> str:
    import fbgemm_gpu  # noqa: F401 - importing it registers the operators
    import torch
    import torchrec  # noqa: F401

    registered = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    missing = [name for name in OPERATORS if f"fbgemm::{name}" not in registered]
    if missing:
        raise RuntimeError(f"fbgemm_gpu registered no operator {', '.join(missing)}")
    return f"{len(OPERATORS)} FBGEMM operators that TorchRec calls are registered"


def probe_embedding() -> str:
    """Forward and backward of an EmbeddingCollection, then FBGEMM's lookup with fused row-wise Adagrad."""
    import torch
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

    ids = KeyedJaggedTensor.from_lengths_sync(["item"], torch.tensor([1, 2, 3]), torch.tensor([2, 1]))
    table = EmbeddingConfig(name="item", embedding_dim=4, num_embeddings=8, feature_names=["item"])
    collection = EmbeddingCollection(tables=[table], device=torch.device("cpu"))
    collection(ids)["item"].values().sum().backward()
    _fused_step("cuda" if torch.cuda.is_available() else "cpu")
    return "EmbeddingCollection and the fused lookup give an output and an update"


def _fused_step(device: str) -> None:
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    spec = (8, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)
    if device == "cuda":
        spec = (8, 4, EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [spec],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        pooling_mode=PoolingMode.NONE,
        device=torch.device(device),
    )
    before = tables.split_embedding_weights()[0].clone()
    rows = tables(torch.tensor([1, 2, 2], device=device), torch.tensor([0, 2, 3], device=device))
    rows.sum().backward()
    changed = (tables.split_embedding_weights()[0] != before).any(dim=1).nonzero().flatten().tolist()
    if changed != [1, 2]:
        raise RuntimeError(f"the fused optimizer should have changed rows [1, 2], it changed {changed}")


def probe_triton() -> str:
    import torch

    from dist_rec.doctor.triton_add import add_works

    device = "cuda" if torch.cuda.is_available() else "cpu"
    add_works(device)
    return "a kernel ran on the GPU" if device == "cuda" else "a kernel ran under the interpreter (no GPU here)"


def probe_dedup() -> str:
    """The C++ extension of host dedup."""
    import dist_rec.data._host as host

    return f"tokens are hashed by {os.path.basename(str(host.__file__))}"


def probe_native() -> str:
    """The C++ kernels of a CPU."""
    import torch

    from dist_rec.kernels.common.native import native_kernels
    from dist_rec.kernels.gather_pool import expand

    expand(torch.eye(2), torch.tensor([1, 0]), backend="native")
    return f"{os.path.basename(str(native_kernels().__file__))} gathers rows"


def probe_rank(backend: str, rank: str, world_size: str, store: str) -> str:
    """One rank of an all-reduce and an all-to-all. The ranks meet in the file `store`, which needs no free port."""
    import torch
    import torch.distributed as dist

    me, ranks = int(rank), int(world_size)
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=me, world_size=ranks, timeout=timedelta(seconds=60)
    )
    device = torch.device("cuda", me) if backend == "nccl" else torch.device("cpu")
    total = torch.tensor([float(me + 1)], device=device)
    dist.all_reduce(total)
    sent = torch.arange(ranks, device=device) + 10 * me
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    dist.destroy_process_group()
    if total.item() != ranks * (ranks + 1) / 2:
        raise RuntimeError(f"all-reduce over {ranks} ranks gave {total.item()}, expected {ranks * (ranks + 1) / 2}")
    if received.tolist() != [10 * source + me for source in range(ranks)]:
        raise RuntimeError(f"all-to-all gave rank {me} {received.tolist()}")
    return f"all-reduce and all-to-all over {ranks} {backend} ranks"


PROBES: dict[str, Callable[..., str]] = {
    "torch": probe_torch,
    "operators": probe_operators,
    "embedding": probe_embedding,
    "triton": probe_triton,
    "dedup": probe_dedup,
    "native": probe_native,
    "rank": probe_rank,
}

if __name__ == "__main__":
    message = PROBES[sys.argv[1]](*sys.argv[2:])
    print(message, flush=True)
    # Some builds crash at exit, which does not matter for training.
    os._exit(0)

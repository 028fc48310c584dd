"""How the ranks of one start of a job meet in a store that knows of earlier starts.

torchrun starts all ranks again after a failure, or when a host comes or goes, and lets them use the same store. What
ranks that are gone have left there, such as their addresses, must not be taken for that of their successors."""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

POLL_S = 0.05


def meet(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A word that the ranks of this start have in common, and no other start has.

    Every rank says a word of its own. Rank 0 answers each word with one for all, which a rank finds under its own word
    alone, and thanks for.

    Raises dist.DistError if a rank does not come in time."""
    own = uuid.uuid4().hex
    store.set(f"word/{rank}", own)
    if rank:
        store.wait([f"answer/{own}"], timeout)
        common = store.get(f"answer/{own}").decode()
        store.set(f"thanks/{common}/{rank}", "")
        return common
    missing, answered, end = set(range(1, world_size)), set[str](), time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"thanks/{own}/{other}"]):
                missing.discard(other)
            elif store.check([f"word/{other}"]) and (word := store.get(f"word/{other}").decode()) not in answered:
                answered.add(word)  # perhaps of a rank that is gone, to which no thanks will come
                store.set(f"answer/{word}", own)
        if missing and time.monotonic() > end:
            raise dist.DistStoreError(f"ranks {', '.join(map(str, sorted(missing)))} did not come")
        time.sleep(POLL_S if missing else 0)
    return own

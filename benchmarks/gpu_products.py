"""What a matrix product costs the host when its number of rows was never seen, seen before, or rounded up.

    python -m benchmarks.gpu_products

Rows of 128 columns in bf16. Microseconds of the host from the call to its return, with the GPU idle before: the median
of the first 50 and of the last 100 of 400 calls. Without a GPU it runs a few small ones: a rehearsal.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

COLUMNS, CALLS, ROUNDED = 128, 400, 16_384


def host_us(call: Callable[[Tensor], object], rows: Tensor, counts: list[int]) -> list[float]:
    """Of `call` on the first `counts` rows, one after the other."""
    found = []
    for count in counts:
        if rows.is_cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        call(rows[:count])
        found.append(1e6 * (time.perf_counter() - started))
    return found


def told(name: str, times: list[float]) -> str:
    first, last = (sorted(part)[len(part) // 2] for part in (times[:50], times[-100:]))
    return f"{name:40s} first 50: {first:8.1f}   last 100: {last:8.1f} us"


def main() -> None:
    on_gpu = torch.cuda.is_available()
    device, most = ("cuda", 1_000_000) if on_gpu else ("cpu", 1_000)
    generator = torch.Generator().manual_seed(0)
    rounded = ROUNDED if on_gpu else 16
    counts = torch.randint(most // 3, most, (CALLS,), generator=generator).tolist()
    known = [-(-count // rounded) * rounded for count in counts]
    rows = torch.randn(max(known), COLUMNS, device=device, dtype=torch.bfloat16)
    weight, bias = rows[:COLUMNS].clone(), rows[0].clone()
    calls: dict[str, Callable[[Tensor], object]] = {
        "linear with bias": lambda x: torch.nn.functional.linear(x, weight, bias),
        "mm": lambda x: x @ weight,
        "gradient of a weight": lambda x: x.T @ x,
    }
    for name, call in calls.items():
        print(told(f"{name}, never seen", host_us(call, rows, counts)))
        print(told(f"{name}, the same again", host_us(call, rows, counts)))
        host_us(call, rows, known)
        print(told(f"{name}, rounded to {rounded}, seen", host_us(call, rows, known)))
    print(told("an addition", host_us(lambda x: x + 1, rows, counts)))


if __name__ == "__main__":
    main()

import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from dist_rec.training.memory import keep_freed_memory
assert keep_freed_memory()
def step():
    for _ in range(20):
        torch.ones(2**20)  # 4 MB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_what_is_freed_is_used_again_without_the_kernel() -> None:
    pages = 20 * 2**22 // resource.getpagesize()
    found = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < pages // 20

"""Compiles Triton kernels without a GPU and reads what the machine code uses.

Needs no device: the compiler, ptxas and cuobjdump are in Triton's wheel. Not for a process with
TRITON_INTERPRET.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Bytes of shared memory per block. 80 means 8.x and 12.x, whose smaller GPUs have 99 KiB.
SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@dataclass(frozen=True)
class Used:
    """What a compiled kernel uses: registers and local bytes per thread, shared bytes per block, and instructions."""

    registers: int
    stack: int
    shared: int
    instructions: dict[str, int]

    @property
    def spills(self) -> bool:
        return self.stack > 0 or self.instructions["LDL"] > 0 or self.instructions["STL"] > 0

    def complaints(self, architecture: int) -> list[str]:
        """Spilled registers, and more shared memory than the architecture has."""
        found = [f"spills: {self.stack} bytes of stack, {self.instructions['LDL']} local loads"] if self.spills else []
        if self.shared > SHARED_LIMIT[architecture]:
            found.append(f"needs {self.shared} bytes of shared memory of {SHARED_LIMIT[architecture]}")
        return found


def compile_for(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int, *, warps: int) -> Used:
    """Compiles `kernel` for sm_`capability`.

    Args:
        types: of run-time arguments, such as `*bf16`, `i32`, `fp32`; pointers and strides are divisible by 16.
        constants: every other argument.
    """
    names = kernel.arg_names
    unknown = set(names) - set(types) - set(constants)
    if unknown:
        raise ValueError(f"{kernel.__name__}: no type or value for {', '.join(sorted(unknown))}")
    signature = {name: types.get(name, "constexpr") if name not in constants else "constexpr" for name in names}
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*") or "stride" in name
    }
    source = ASTSource(kernel, signature, {name: constants[name] for name in names if name in constants}, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    return _inspect(compiled)


class Build(Protocol):
    """A kernel with its constants; its text says which."""

    def compile(self) -> Used: ...

    def complaints(self, used: Used) -> list[str]: ...


def report(builds: Iterable[Build]) -> None:
    """Compiles every build and prints what it uses, a line each; exits with 1 after a complaint."""
    failed = False
    for build in builds:
        used = build.compile()
        complaints = build.complaints(used)
        failed |= bool(complaints)
        instructions = "".join(f", {count} {name}" for name, count in used.instructions.items() if count)
        judged = f" <- {'; '.join(complaints)}" if complaints else ""
        print(f"{build}: {used.registers} registers, {used.shared} bytes shared{instructions}{judged}", flush=True)
    sys.exit(failed)


def _inspect(compiled: Any) -> Used:
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([cuobjdump, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage printed no register count:\n{usage}")
    counts = {
        name: len(re.findall(rf"\b{name}\b", sass)) for name in ("HGMMA", "HMMA", "UTCHMMA", "LDL", "STL", "LDGSTS")
    }
    return Used(int(found[1]), int(found[2]), compiled.metadata.shared, counts)

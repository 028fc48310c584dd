"""Packaging. Two unusual things: the top-level folder `kernels/` is shipped as `dist_rec.kernels`, never as `kernels`,
and what a CPU does for every event is C++ that an installation may lack: the host's dedup (dist_rec/data/dedup.py then
takes a library) and the kernels of a CPU (kernels/common/native.py; then plain PyTorch).

As for the folder: a wheel takes it from `package_dir`; the source tree and an editable install find it through the link
`dist_rec/kernels`.
"""

import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
LINK = ROOT / "dist_rec" / "kernels"
AVX2 = ["-mavx2", "-mfma"]  # what torch means by these names, so that its test of the CPU holds here


def kernel_packages() -> list[str]:
    """`dist_rec.kernels` and every package below it; the folder itself has no `__init__.py` (see kernels/README.md)."""
    return ["dist_rec.kernels", *(f"dist_rec.kernels.{name}" for name in find_packages("kernels"))]


def check_link() -> None:
    """An editable install imports the source tree, and that one finds the kernels only through the link."""
    if LINK.is_dir() and LINK.resolve() == ROOT / "kernels":
        return
    came = (
        "a plain file (a checkout without symbolic links)"
        if LINK.is_file()
        else "something else"
        if LINK.exists()
        else "nothing"
    )
    raise SystemExit(
        f"dist_rec/kernels must be a link to ../kernels, found {came}. "
        "Restore it with: rm -rf dist_rec/kernels && ln -s ../kernels dist_rec/kernels"
    )


def native_kernels() -> list[Extension]:
    """The same sources once per instruction set, of which the one that fits is imported."""
    variants = {"default": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        variants |= {"avx2": AVX2, "avx512": [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]}
    return [
        Extension(
            f"dist_rec.kernels.native._native_{name}",
            ["kernels/native/_native.cpp"],
            depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "kernels/native").glob("*.hpp"))],
            define_macros=[("VARIANT", name)],
            # Vectors are written out; the compiler's own attempts cost time and win nothing. Sums of products may fuse.
            extra_compile_args=["-O3", "-std=c++17", "-fno-tree-vectorize", "-ffp-contract=fast", "-Wno-psabi", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in variants.items()
    ]


class CheckedEditable(editable_wheel):
    """`pip install -e .`, refused with a reason where it would install something that cannot be imported."""

    def run(self) -> None:
        check_link()
        super().run()


setup(
    name="dist-rec",
    version="0.1.0",
    description="Train long-sequence recommenders on TorchRec: unique ids, LONGER, packed attention, delayed dense "
    "updates.",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(include=["dist_rec", "dist_rec.*"], exclude=["dist_rec.kernels", "dist_rec.kernels.*"]),
        *kernel_packages(),
    ],
    package_dir={"dist_rec.kernels": "kernels"},
    package_data={
        "dist_rec.kernels.cross_causal_attention": ["*.json"],
        "dist_rec.data.importers": ["*.yaml"],
    },
    ext_modules=[
        Extension(
            "dist_rec.data._host",
            ["dist_rec/data/_host.cpp"],
            depends=["dist_rec/data/_tokens.hpp"],
            extra_compile_args=["-O3", "-std=c++17"],
            optional=True,  # without a compiler the installation goes on; `dist-rec doctor` says what is missing
        ),
        *native_kernels(),
    ],
    # Every torch with a TorchRec that has what this project calls; the sets that are tested: launch/requirements/.
    install_requires=[
        "torch>=2.11,<2.15",
        "torchdata>=0.11",
        "torchmetrics>=1.0.3",
        "numpy>=1.26",
        "pyarrow>=16",
        "duckdb>=1.3",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "typer>=0.19",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
    ],
    # TorchRec is in no default: it requires fbgemm-gpu (CUDA), so a machine without a GPU must install it with
    # --no-deps beside fbgemm-gpu-cpu, which no extra can say. launch/install.sh does.
    extras_require={
        "cuda": ["torch==2.14.*", "torchrec==1.9.*", "fbgemm-gpu==1.9.*", "triton==3.8.*"],
        "serve": ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20"],
        "redis": ["redis>=5"],
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "scikit-learn>=1.5", "triton>=3.6"),
            *("fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20", "httpx>=0.27"),
            *("redis>=5", "fakeredis>=2.20"),
        ],
        "check": ["ruff==0.17.*", "pyright>=1.1.400"],
    },
    entry_points={"console_scripts": ["dist-rec = dist_rec.cli:main"]},
    cmdclass={"editable_wheel": CheckedEditable},
)

import subprocess
import sys

import pytest

from dist_rec.common.lazy import lazily


def test_a_name_comes_from_its_module() -> None:
    get = lazily("some.package", {"Path": "pathlib", "sub": "re"})
    assert get("Path").__module__.startswith("pathlib") and get("sub")("a", "b", "aa") == "bb"
    with pytest.raises(AttributeError, match=r"module 'some\.package' has no attribute 'pathh'"):
        get("pathh")


@pytest.mark.parametrize("package", ["dist_rec.data", "dist_rec.distill"])
def test_packages_load_no_torch_by_themselves(package: str) -> None:
    code = f"import sys, {package}; assert 'torch' not in sys.modules; assert len({package}.__all__) > 2"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The rules that tests/test_architecture.py keeps: functions from a folder to a list of complaints, by syntax trees.
import_rules.py says what each part may import."""

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tests.helpers.import_rules import RULES, within

FILE_LINES = 400
FUNCTION_LINES, DEVICE_FUNCTION_LINES = 80, 200
PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A Python file and the name it is imported by."""

    path: Path
    root: Path

    @property
    def place(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def module(self) -> str:
        parts = list(self.path.relative_to(self.root).with_suffix("").parts)
        if parts[0] == "kernels":
            parts.insert(0, "dist_rec")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """What relative imports start from."""
        return self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]

    @property
    def part(self) -> str:
        """The entry of RULES that holds for the file: dist_rec.<next name>.<next name> where there is one, else
        dist_rec, or dist_rec.<next name>."""
        names = self.module.split(".")
        return inner if (inner := ".".join(names[:3])) in RULES else ".".join(names[:2])

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), filename=str(self.path))


def sources(root: Path) -> list[Source]:
    """Every file of the framework and of the kernels once: the link dist_rec/kernels is not followed."""
    return [Source(path, root) for path in (*python_files(root, "dist_rec"), *python_files(root, "kernels"))]


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    for folder in folders:
        for place, folders_below, files in os.walk(root / folder, followlinks=False):
            folders_below[:] = sorted(name for name in folders_below if name != "__pycache__")
            yield from (Path(place, name) for name in sorted(files) if name.endswith(".py"))


def imports(source: Source) -> Iterator[tuple[int, list[str]]]:
    """Line and possible targets of every import at any depth: `from a import b` means the module a.b or a name in a."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, [name.name]) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(source, node)
            yield from ((node.lineno, [module, f"{module}.{name.name}"]) for name in node.names)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    above = source.package.split(".")
    start = above[: len(above) - node.level + 1]
    return ".".join([*start, *([node.module] if node.module else [])])


def wrong_imports(root: Path) -> list[str]:
    complaints = []
    for source in sources(root):
        rule = RULES.get(source.part)
        if rule is None:
            complaints.append(f"{source.place}: {source.part} has no entry in RULES; say there what it may import")
            continue
        own = (source.part,) if source.part != "dist_rec" else ()
        allowed = replace(rule, project=rule.project + own, others=rule.others + tuple(sys.stdlib_module_names))
        for_types = _lines_for_types(source)
        for line, targets in imports(source):
            if not allowed.allows(targets, for_types=line in for_types):
                complaints.append(f"{source.place}:{line}: {source.part} may not import {targets[-1]}")
        used = _used(source, rule.never)
        complaints += [f"{source.place}:{line}: {source.part} may not use {name}" for line, name in used]
    return complaints


def _lines_for_types(source: Source) -> set[int]:
    """Lines under `if TYPE_CHECKING:`."""
    blocks = [node for node in ast.walk(source.tree) if isinstance(node, ast.If)]
    bodies = [node.body for node in blocks if ast.unparse(node.test).endswith("TYPE_CHECKING")]
    return {line for body in bodies for line in range(body[0].lineno, (body[-1].end_lineno or body[-1].lineno) + 1)}


def _used(source: Source, never: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """`import torch` and then `torch.distributed.x` is an import too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in never:
            yield node.lineno, ast.unparse(node)


def kernels_by_the_wrong_name(root: Path) -> list[str]:
    """`import kernels` works from the root and gives a second copy of every operator; the name is another package's."""
    files = [root / "setup.py", *python_files(root, "dist_rec", "kernels", "launch", "benchmarks", "tests")]
    return [
        f"{source.place}:{line}: import dist_rec.kernels, not kernels"
        for source in (Source(path, root) for path in files if path.is_file())
        for line, targets in imports(source)
        if within(targets[0], ("kernels",))
    ]


def wrong_link(root: Path) -> list[str]:
    link = root / "dist_rec" / "kernels"
    complaints = []
    if not link.is_symlink() or os.readlink(link) != "../kernels":
        complaints.append(
            "dist_rec/kernels must be a link to ../kernels: rm -rf dist_rec/kernels && ln -s ../kernels "
            "dist_rec/kernels"
        )
    if (root / "kernels" / "__init__.py").exists():
        complaints.append(
            "kernels/__init__.py must not exist: with it the folder shadows the package `kernels` of others"
        )
    return complaints


def cycles(root: Path) -> list[str]:
    """Modules that import each other at their top; wrong_imports sees imports inside functions too."""
    files = {source.module: source for source in sources(root)}
    graph = {module: _imported_at_once(source, files) - {module} for module, source in files.items()}
    complaints: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            complaints.append("import cycle: " + " -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return complaints


def _imported_at_once(source: Source, files: dict[str, Source]) -> set[str]:
    at_top = {node.lineno for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    found = set()
    for line, targets in imports(source):
        known = [target for target in targets if target in files]
        if line in at_top and known:
            found.add(known[-1])
    return found


def missing_tests(root: Path) -> list[str]:
    """A source has a test file of its name; an operator has at least one in its folder, or one of its name."""
    complaints = []
    for source in sources(root):
        parts = list(source.path.relative_to(root).parts)
        if source.path.name == "__init__.py" and not _is_operator(parts):
            complaints += [
                f"{source.place}: {name} belongs into a module; this file only re-exports" for name in _defined(source)
            ]
            continue
        if _is_operator(parts):
            name = parts[1]
            found = [*root.glob(f"tests/kernels/{name}/test_*.py"), *root.glob(f"tests/kernels/test_{name}.py")]
            wanted = f"tests/kernels/{name}/test_*.py or tests/kernels/test_{name}.py"
        else:
            below = parts[1:-1] if parts[0] == "dist_rec" else parts[:-1]
            wanted = "/".join(["tests", *below, f"test_{parts[-1]}"])
            found = [root / wanted] if (root / wanted).is_file() else []
        if not found:
            complaints.append(f"{source.place}: no test, expected {wanted}")
    return complaints


def _is_operator(parts: list[str]) -> bool:
    return parts[0] == "kernels" and len(parts) > 2 and parts[1] not in ("common", "native")


def _defined(source: Source) -> list[str]:
    """Functions and classes but `__getattr__`, which re-exports names when they are used."""
    names = [node.name for node in source.tree.body if isinstance(node, Function | ast.ClassDef)]
    return [name for name in names if name != "__getattr__"]


def orphaned_tests(root: Path) -> list[str]:
    complaints = []
    for path in python_files(root, "tests"):
        parts = path.relative_to(root / "tests").parts
        if not path.name.startswith("test_") or parts[0] in (
            "integration",
            "golden",
            "helpers",
            "test_architecture.py",
            "test_public_surface.py",
        ):
            continue
        name = path.stem.removeprefix("test_")
        above = Path(*parts[:-1]) if len(parts) > 1 else Path()
        if parts[0] == "kernels":
            candidates = [root / above, root / above / name, root / above / f"{name}.py"][
                0 if len(parts) > 2 and parts[1] != "common" else 1 :
            ]
        elif parts[0] in ("launch", "benchmarks"):
            candidates = list((root / above).glob(f"{name}.*"))
        else:
            candidates = [root / "dist_rec" / above / f"{name}.py"]
        if not any(candidate.exists() for candidate in candidates):
            complaints.append(
                f"{path.relative_to(root).as_posix()}: tests nothing of that name; rename it, or move it to "
                "tests/integration"
            )
    return complaints


def over_budget(root: Path, exceptions: dict[str, str]) -> list[str]:
    """Breaches without an entry in exceptions, and entries without a breach."""
    found: dict[str, str] = {}
    for source in [
        *sources(root),
        *(Source(path, root) for path in python_files(root, "tests", "benchmarks", "launch")),
    ]:
        lines = len(source.path.read_text().splitlines())
        if lines > FILE_LINES:
            found[source.place] = f"{lines} lines, at most {FILE_LINES}"
        for name, function in _functions(source.tree):
            if breach := _function_breach(function):
                found[f"{source.place}::{name}"] = breach
    unexplained = [
        f"{place}: {breach}; split it, or give the reason in EXCEPTIONS"
        for place, breach in found.items()
        if place not in exceptions
    ]
    gone = [place for place in exceptions if place not in found]
    return unexplained + [f"{place}: within its budget (or gone), remove it from EXCEPTIONS" for place in gone]


def _functions(tree: ast.AST, above: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name, as in Class.method."""
    for node in ast.iter_child_nodes(tree):
        name = f"{above}{node.name}" if isinstance(node, Function | ast.ClassDef) else ""
        if isinstance(node, Function):
            yield name, node
        yield from _functions(node, f"{name}." if name else above)


def _function_breach(function: Function) -> str:
    on_device = any("jit" in ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list)
    limit = DEVICE_FUNCTION_LINES if on_device else FUNCTION_LINES
    # The docstring explains, it does not have to be followed: only what comes after it is counted.
    first = function.body[1:2] if ast.get_docstring(function) is not None else function.body[:1]
    lines = (function.end_lineno or function.lineno) - (first[0].lineno if first else function.lineno) + 1
    if lines > limit:
        return f"{lines} lines of code, at most {limit}"
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    count = len([name for name in names if name not in ("self", "cls")])
    if count > PARAMETERS and not on_device and not _launches(function):
        return f"{count} parameters, at most {PARAMETERS}: gather them in a dataclass"
    return ""


def _launches(function: ast.AST) -> bool:
    """`kernel[grid](...)`: such a function has as many parameters as the kernel needs."""
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    bases = (called.value for called in calls if isinstance(called, ast.Subscript))
    return any(
        isinstance(base, ast.Name) and not base.id.isupper() for base in bases
    )  # TABLE[name](...) launches nothing

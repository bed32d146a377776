"""The project's source files and what each of them imports, read without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("bottleneck_cli", "pipelines")


@dataclass(frozen=True)
class Module:
    """One source file and the dotted names that it imports."""

    path: Path
    imports: frozenset[str]
    imports_at_load: frozenset[str]


def read_modules(root: Path) -> dict[str, Module]:
    """Parse every file of the two packages below a root, by dotted name."""
    paths = {
        module_name(path.relative_to(root)): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    modules = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        everywhere = imported_names(ast.walk(tree), package, paths)
        at_load = imported_names(statements_at_load(tree), package, paths)
        modules[name] = Module(path, everywhere, at_load)
    return modules


def module_name(relative_path: Path) -> str:
    parts = relative_path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements_at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a file is imported: no function bodies, nothing for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from statements_at_load(other)
            continue
        yield node
        yield from statements_at_load(node)


def imported_names(
    nodes: Iterator[ast.AST], package: str, known: dict[str, Path]
) -> frozenset[str]:
    """Name the modules that imports load; `from a import b` is a.b where that is a file."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            members = {f"{base}.{alias.name}" for alias in node.names}
            submodules = members & known.keys()
            names |= submodules
            if len(submodules) < len(members):
                names.add(base)
    return frozenset(names)

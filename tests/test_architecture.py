"""The one direction of imports and the shape of files, read from the source without running it.

Each rule is a function from a source tree to a list of violations. It is held against the project
itself, and against a small made-up tree that breaks it, so that no rule can fall silent.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from source_files import PACKAGES, Module, read_modules

ROOT = Path(__file__).resolve().parents[1]
STAGES = frozenset(
    f"pipelines.{name}"
    for name in (
        *("compress", "extract", "train_tail", "evaluate", "predict", "export"),
        *("status", "list_runs", "stats", "verify", "report", "explain"),
    )
)
NOT_FOR_PIPELINES = frozenset({"bottleneck_cli", "click", "tqdm", "tests", "benchmarks"})
SLOW_TO_IMPORT = frozenset({"tensorflow", "keras", "numba"})
ONLY_IMPORTS: dict[str, set[str]] = {
    "pipelines.errors": set(),
    "pipelines.storage.atomic": {"pipelines.errors"},
}
# What each folder of the library may import beside itself, `errors` and `progress`.
FOLDERS: dict[str, set[str]] = {
    "storage": set(),
    "images": {"storage"},
    "networks": {"images", "storage"},
    "execution": {"storage"},
    "compression": {"execution", "images", "storage"},
    "analysis": {"storage"},
    "reporting": {"analysis", "images", "storage"},
    "training": {"analysis", "execution", "networks", "images", "storage"},
    "evaluation": {"analysis", "training", "networks", "storage"},
    "extraction": {"execution", "networks", "images", "storage"},
}
MAX_LINES = 350


def top(name: str) -> str:
    return name.partition(".")[0]


def library_knows_the_command_line(modules: dict[str, Module]) -> list[str]:
    return [
        f"{name} imports {imported}"
        for name, module in modules.items()
        if top(name) == "pipelines"
        for imported in sorted(module.imports)
        if top(imported) in NOT_FOR_PIPELINES
    ]


def stage_imported_inside_the_library(modules: dict[str, Module]) -> list[str]:
    return [
        f"{name} imports {imported}"
        for name, module in modules.items()
        if top(name) == "pipelines"
        for imported in sorted(module.imports & STAGES)
    ]


def folder_imports_against_the_direction(modules: dict[str, Module]) -> list[str]:
    violations = []
    for name, module in modules.items():
        if not name.startswith("pipelines.") or module.path.parent.name == "pipelines":
            continue
        folder = name.split(".")[1]
        allowed = {*FOLDERS.get(folder, ()), folder, "errors", "progress"}
        violations += [
            f"{name} imports {imported}"
            for imported in sorted(module.imports)
            if imported.startswith("pipelines.") and imported.split(".")[1] not in allowed
        ]
    return violations


def leaf_imports_more_than_it_may(modules: dict[str, Module]) -> list[str]:
    return [
        f"{name} imports {imported}"
        for name, allowed in ONLY_IMPORTS.items()
        if name in modules
        for imported in sorted(modules[name].imports - allowed)
        if top(imported) in PACKAGES
    ]


def slow_import_when_the_command_starts(modules: dict[str, Module]) -> list[str]:
    """Follow imports at load from every command file; each is within reach of main."""
    reached, waiting = set(), [name for name in modules if top(name) == "bottleneck_cli"]
    while waiting:
        name = waiting.pop()
        if name in modules and name not in reached:
            reached.add(name)
            waiting.extend(modules[name].imports_at_load)
            waiting.append(name.rpartition(".")[0])  # importing a.b runs a/__init__.py first
    return [
        f"{name} imports {imported} at load"
        for name in sorted(reached)
        for imported in sorted(modules[name].imports_at_load)
        if top(imported) in SLOW_TO_IMPORT
    ]


def package_file_holds_code(modules: dict[str, Module]) -> list[str]:
    violations = []
    for name, module in modules.items():
        if module.path.name == "__init__.py":
            tree = ast.parse(module.path.read_text(encoding="utf-8"))
            if len(tree.body) != 1 or ast.get_docstring(tree) is None:
                violations.append(f"{name}/__init__.py is more or less than a docstring")
    return violations


def file_too_long_or_misnamed(modules: dict[str, Module]) -> list[str]:
    violations = []
    for name, module in modules.items():
        num_lines = len(module.path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_LINES:
            violations.append(f"{name} has {num_lines} lines, at most {MAX_LINES} are expected")
        if module.path.name in ("utils.py", "helpers.py", "misc.py"):
            violations.append(f"{name} has a name that says nothing of its one idea")
    return violations


Rule = Callable[[dict[str, Module]], list[str]]
RULES: list[Rule] = [
    library_knows_the_command_line,
    stage_imported_inside_the_library,
    folder_imports_against_the_direction,
    leaf_imports_more_than_it_may,
    slow_import_when_the_command_starts,
    package_file_holds_code,
    file_too_long_or_misnamed,
]

BROKEN: list[tuple[Rule, dict[str, str], str]] = [
    (
        library_knows_the_command_line,
        {"pipelines/images/codecs.py": "def f():\n    from tqdm.auto import tqdm\n"},
        "pipelines.images.codecs imports tqdm.auto",
    ),
    (
        library_knows_the_command_line,
        {
            "bottleneck_cli/console.py": "",
            "pipelines/extract.py": "from bottleneck_cli import console\n",
        },
        "pipelines.extract imports bottleneck_cli.console",
    ),
    (
        stage_imported_inside_the_library,
        {
            "pipelines/extract.py": "",
            "pipelines/compress.py": "def f():\n    from . import extract\n",
        },
        "pipelines.compress imports pipelines.extract",
    ),
    (
        stage_imported_inside_the_library,
        {
            "pipelines/extract.py": "",
            "pipelines/storage/cache.py": "from ..extract import run\n",
        },
        "pipelines.storage.cache imports pipelines.extract",
    ),
    (
        folder_imports_against_the_direction,
        {
            "pipelines/storage/cache.py": "def f():\n    from pipelines.networks import nodes\n",
            "pipelines/networks/nodes.py": "",
        },
        "pipelines.storage.cache imports pipelines.networks.nodes",
    ),
    (
        folder_imports_against_the_direction,
        {
            "pipelines/training/loop.py": "from pipelines.extraction.job import fill\n",
            "pipelines/extraction/job.py": "",
        },
        "pipelines.training.loop imports pipelines.extraction.job",
    ),
    (
        folder_imports_against_the_direction,
        {"pipelines/extraction/job.py": "import pipelines.config\n", "pipelines/config.py": ""},
        "pipelines.extraction.job imports pipelines.config",
    ),
    (
        folder_imports_against_the_direction,
        {"pipelines/nobody/knows.py": "from pipelines.storage import a\n"},
        "pipelines.nobody.knows imports pipelines.storage",
    ),
    (
        leaf_imports_more_than_it_may,
        {"pipelines/config.py": "", "pipelines/errors.py": "import pipelines.config\n"},
        "pipelines.errors imports pipelines.config",
    ),
    (
        leaf_imports_more_than_it_may,
        {
            "pipelines/storage/manifest.py": "",
            "pipelines/storage/atomic.py": "from pipelines.errors import E\n"
            "from .manifest import read\n",
        },
        "pipelines.storage.atomic imports pipelines.storage.manifest",
    ),
    (
        slow_import_when_the_command_starts,
        {"bottleneck_cli/main.py": "try:\n    import keras\nexcept ImportError:\n    pass\n"},
        "bottleneck_cli.main imports keras at load",
    ),
    (
        slow_import_when_the_command_starts,
        {
            "bottleneck_cli/main.py": "from pipelines.networks import nodes\n",
            "pipelines/networks/__init__.py": "",
            "pipelines/networks/nodes.py": "from .topology import join\n",
            "pipelines/networks/topology.py": "class Join:\n    from tensorflow import keras\n",
        },
        "pipelines.networks.topology imports tensorflow at load",
    ),
    (
        slow_import_when_the_command_starts,
        {
            "bottleneck_cli/main.py": "import pipelines.networks.nodes\n",
            "pipelines/networks/__init__.py": "import tensorflow as tf\n",
            "pipelines/networks/nodes.py": "",
        },
        "pipelines.networks imports tensorflow at load",
    ),
    (
        package_file_holds_code,
        {"pipelines/__init__.py": '"""Words."""\n\nfrom pipelines import errors\n'},
        "pipelines/__init__.py is more or less than a docstring",
    ),
    (
        package_file_holds_code,
        {"pipelines/__init__.py": ""},
        "pipelines/__init__.py is more or less than a docstring",
    ),
    (
        file_too_long_or_misnamed,
        {"pipelines/plan.py": "\n" * 351},
        "pipelines.plan has 351 lines, at most 350 are expected",
    ),
    (
        file_too_long_or_misnamed,
        {"pipelines/images/utils.py": ""},
        "pipelines.images.utils has a name that says nothing of its one idea",
    ),
]


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Module]:
    return read_modules(ROOT)


def test_read_modules_project_finds_both_packages(project):
    assert {"bottleneck_cli", "pipelines", "pipelines.errors"} <= project.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_keeps_rule(rule, project):
    assert rule(project) == []


@pytest.mark.parametrize(("rule", "files", "violation"), BROKEN)
def test_rule_broken_tree_names_the_violation(rule, files, violation, tmp_path):
    write_tree(tmp_path, files)
    assert rule(read_modules(tmp_path)) == [violation]


def test_slow_import_rule_lazy_or_typing_import_is_allowed(tmp_path):
    write_tree(
        tmp_path,
        {
            "bottleneck_cli/main.py": "from typing import TYPE_CHECKING\n"
            "from pipelines import errors\n"
            "if TYPE_CHECKING:\n    import keras\n"
            "def f():\n    import tensorflow\n",
            "pipelines/errors.py": "",
            "pipelines/extract.py": "import tensorflow\n",
        },
    )
    assert slow_import_when_the_command_starts(read_modules(tmp_path)) == []


def test_folder_rule_every_folder_of_the_library_has_its_place(project):
    folders = {
        name.split(".")[1]
        for name, m in project.items()
        if m.path.name == "__init__.py" and "." in name
    }
    assert folders == FOLDERS.keys()


def test_folder_rule_allowed_imports_are_no_violation(tmp_path):
    write_tree(
        tmp_path,
        {
            "pipelines/extraction/job.py": "from pipelines.execution import tasks\n"
            "from pipelines.errors import E\nfrom . import plans\n",
            "pipelines/extraction/plans.py": "from pipelines.networks.nodes import cut\n",
            "pipelines/execution/tasks.py": "from pipelines import progress\n",
            "pipelines/networks/nodes.py": "import numpy\n",
            "pipelines/extract.py": "from pipelines.extraction import job\n",
        },
    )
    assert folder_imports_against_the_direction(read_modules(tmp_path)) == []


def test_every_rule_has_a_tree_that_breaks_it():
    assert {rule for rule, _, _ in BROKEN} == set(RULES)

"""The GPUs that the checks in this folder need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.execution import slots
from pipelines.execution.slots import Gpu


@pytest.fixture(scope="session")
def there() -> list[Gpu]:
    """The GPUs of this machine."""
    program = (
        "from pipelines.execution import devices\ndevices.configure()\nprint(devices.has_gpu())\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if result.stdout.split()[-1:] != ["True"]:
        pytest.skip(f"needs a GPU that TensorFlow can use: {result.stderr[-500:]}")
    return slots.gpus()


@pytest.fixture(scope="session")
def alike(there: list[Gpu]) -> list[Gpu]:
    """The GPUs, where they are several of one kind."""
    if len(there) < 2 or not there[0].name or len({gpu.name for gpu in there}) > 1:
        pytest.skip("needs two GPUs of one kind, known by name")
    return there

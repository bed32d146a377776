"""Where workers run: the devices of this machine, told without TensorFlow, and shares of its cores.

A GPU's worker sees that GPU alone (CUDA_VISIBLE_DEVICES), a worker on the CPU sees none.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.execution import devices as hardware
from pipelines.execution.engine import Slot
from pipelines.execution.threads import num_cores

AUTO, CPU = "auto", "cpu"
_VISIBLE, _NONE = "CUDA_VISIBLE_DEVICES", "-1"
# As nvidia-smi counts; by itself CUDA begins with the fastest.
_ORDER, _AS_LISTED = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
_ASKED = re.compile(r"gpu(?::(\d+(?:,\d+)*))?")
_ANSWER_S = 20.0
_WORKER_BYTES = 2e9  # TensorFlow, a network and the maps of a batch
_MEMORY_SHARE = 0.8
# A thread a process unless it says otherwise: NumPy's libraries start one a core as they load.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use.

    Attributes:
        index: its place among those, as `--devices gpu:0` counts.
        visible: what CUDA_VISIBLE_DEVICES calls it.
        name: of the model, empty where it is not known.
    """

    index: int
    visible: str
    name: str


def gpus() -> list[Gpu]:
    """List the GPUs that this process may use; asks the driver's `nvidia-smi`."""
    there = _installed()
    chosen = os.environ.get(_VISIBLE)
    if chosen is None:
        return [Gpu(i, key, name) for i, (key, name) in enumerate(there.items())]
    # What a number stands for is known where both count alike, or all are the same.
    is_known = os.environ.get(_ORDER) == _AS_LISTED or len({*there.values()}) == 1
    found: list[Gpu] = []
    for key in filter(None, (part.strip() for part in chosen.split(","))):
        if not there or key == _NONE or (key.isdigit() and key not in there):
            break  # CUDA, too, takes what stands before the first that is not there
        found.append(Gpu(len(found), key, there.get(key, "") if is_known else ""))
    return found


def _installed() -> dict[str, str]:
    """Return name by index of the machine's GPUs."""
    command = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_ANSWER_S
        )
        pairs = (line.partition(",") for line in result.stdout.splitlines() if "," in line)
        return {index.strip(): name.strip() for index, _, name in pairs}
    names = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return dict.fromkeys(sorted(filter(str.isdigit, names), key=int), "")


def choose(devices: str, workers: int | None, threads: int) -> list[Slot]:
    """Choose the places of extract's workers.

    Args:
        devices: "auto", "cpu", "gpu" or some of them, such as "gpu:0,1".
        workers: how many; None for one a GPU, or as many as have `threads` cores each.
        threads: of one worker on the CPU.

    Raises:
        ConfigError: a GPU is not there, or there are fewer than workers, or of several models.
    """
    there = [] if devices == CPU else gpus()
    if devices.startswith("gpu"):
        there = _asked_gpus(devices, there)
    if not there:
        return cpu_slots(workers or _useful_workers(threads))
    if workers and workers > len(there):
        raise ConfigError(
            f"workers {workers}: there {_are(len(there))}, and each has one worker; "
            "give fewer, or --devices cpu",
            is_usage=True,
        )
    chosen = there[:workers] if workers else there
    if len({gpu.name for gpu in chosen if gpu.name}) > 1:
        named = ", ".join(f"gpu:{gpu.index} {gpu.name}" for gpu in chosen)
        raise ConfigError(
            f"devices {devices}: GPUs of several models ({named}), whose numbers differ; "
            "choose some of one model with --devices, such as gpu:0",
            is_usage=True,
        )
    environment = {**_ONE_THREAD, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if _VISIBLE not in os.environ:
        environment[_ORDER] = _AS_LISTED
    return [Slot(f"gpu:{gpu.index}", {**environment, _VISIBLE: gpu.visible}) for gpu in chosen]


def visible_to_one(devices: str) -> dict[str, str]:
    """Return the environment of one process that is to use all devices asked for.

    Args:
        devices: as for `choose`, and "cpu:2".

    Raises:
        ConfigError: a GPU is not there.
    """
    if devices.startswith(CPU):
        return {_VISIBLE: _NONE}
    if devices == AUTO:
        return {}
    keys = ",".join(gpu.visible for gpu in _asked_gpus(devices, gpus()))
    return {_VISIBLE: keys, **({} if _VISIBLE in os.environ else {_ORDER: _AS_LISTED})}


def _useful_workers(threads: int) -> int:
    """Return how many workers this machine has cores and memory for."""
    by_memory = int(_MEMORY_SHARE * hardware.memory_bytes() / _WORKER_BYTES)
    return max(1, min(num_cores() // threads, by_memory))


def are_gpus(slots: Sequence[Slot]) -> bool:
    """Tell whether workers in these places are to run on GPUs."""
    return any(slot.environment.get(_VISIBLE, _NONE) != _NONE for slot in slots)


def cpu_slots(num: int) -> list[Slot]:
    """Return places of workers that see no GPU."""
    environment = {**_ONE_THREAD, _VISIBLE: _NONE}
    return [Slot(f"worker {i + 1}", environment) for i in range(num)]


def say_idle(asked: int | None, num_shards: int, say: Callable[[str], None]) -> None:
    """Tell it where more workers are asked for than there are shards left."""
    if asked and asked > num_shards > 0:
        say(f"{asked} workers are asked for, and {num_shards} shards are left")


def _asked_gpus(devices: str, there: list[Gpu]) -> list[Gpu]:
    match = _ASKED.fullmatch(devices)
    if match is None:
        raise ConfigError(f"devices {devices!r}: expected auto, cpu, gpu or gpu:0,1", is_usage=True)
    indexes = [int(text) for text in match[1].split(",")] if match[1] else range(len(there))
    missing = [i for i in indexes if i >= len(there)] if match[1] else []
    if missing or not there:
        asked = f"no gpu:{missing[0]}" if missing else "no GPU"
        raise ConfigError(
            f"devices {devices}: {asked} here, there {_are(len(there))}; "
            "choose others or --devices cpu",
            is_usage=True,
        )
    return [there[i] for i in dict.fromkeys(indexes)]


def _are(number: int) -> str:
    return "is 1 GPU" if number == 1 else f"are {number or 'no'} GPUs"

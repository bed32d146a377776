"""What TensorFlow runs on, and the numeric profile that follows from it.

The last bits of a forward pass change with the device, the instruction set, the library, the batch
shape and the number of threads; together they are the profile under which bytes are the same.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.execution.threads import num_cores

FLOAT32 = "float32"
_INSTRUCTION_SETS = ("amx_tile", "avx512f", "avx2", "avx", "sse4_2")  # the best one counts


def configure(
    threads: int | None = None, precision: str = FLOAT32, num_cpus: int = 1
) -> dict[str, Any]:
    """Load TensorFlow quietly, set its threads, let GPU memory grow; return the profile.

    Args:
        threads: of this process; None for one a core.
        precision: in which networks compute: "float32", on a GPU without its shortcut TF32, or
            one of Keras's mixed policies, "mixed_float16" or "mixed_bfloat16".
        num_cpus: logical devices that the CPU is divided into, to try out several.

    Returns:
        device ("cpu" or the GPU's name), instruction_set, precision, threads, tensorflow and keras
        versions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _native_stderr_silenced():
        import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of functions that are compiled on purpose
    threads = threads or num_cores()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # already running in this process, with what it was started with
        threads = tf.config.threading.get_intra_op_parallelism_threads() or num_cores()
    # Without a driver the search for GPUs prints an error that is none.
    has_driver = Path("/dev/nvidiactl").exists()
    with contextlib.nullcontext() if has_driver else _native_stderr_silenced():
        gpus = tf.config.list_physical_devices("GPU")
    if num_cpus > 1:
        _divide_cpu(num_cpus)
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            break
    tf.config.experimental.enable_tensor_float_32_execution(precision != FLOAT32)
    tf.keras.config.set_dtype_policy(precision)  # also back, behind another one in this process
    device = "cpu"
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu")
    return {
        "device": device,
        "instruction_set": _instruction_set(),
        "precision": precision,
        "threads": threads,
        "tensorflow": tf.__version__,
        "keras": metadata.version("keras"),
    }


def _divide_cpu(num: int) -> None:
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    wanted = [tf.config.LogicalDeviceConfiguration()] * num
    with contextlib.suppress(RuntimeError):  # already running, with what it was started with
        tf.config.set_logical_device_configuration(cpu, wanted)


def has_gpu() -> bool:
    """Tell whether TensorFlow runs on a GPU; call it behind `configure`."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def is_built_with_gpu() -> bool:
    """Tell whether this TensorFlow could run on a GPU; call it behind `configure`."""
    import tensorflow as tf

    return bool(tf.test.is_built_with_gpu_support())


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found)


def make_deterministic() -> None:
    """Let TensorFlow run only operations that give the same numbers every time."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Drop what native code prints before TensorFlow's log level applies to it."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _instruction_set() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return platform.machine()
    best = next((name for name in _INSTRUCTION_SETS if name in flags), "none")
    return f"{platform.machine()} {best}"

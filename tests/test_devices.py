"""Each in a process of its own: what TensorFlow runs on is set once and for all."""

from __future__ import annotations

import json
import subprocess
import sys

from pipelines.execution.threads import num_cores


def run(program):
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(result.stdout), result.stderr


def test_devices_import_loads_no_tensorflow():
    loaded, _ = run(
        "import json, sys\nfrom pipelines.execution import devices\n"
        "print(json.dumps(sorted({'tensorflow', 'keras'} & set(sys.modules))))"
    )
    assert loaded == []


def test_configure_gives_the_numeric_profile_and_keeps_quiet():
    profile, noise = run(
        "import json\nfrom pipelines.execution import devices\n"
        "first = devices.configure()\nimport tensorflow as tf\n"
        "tf.zeros(3) + 1\n"
        "print(json.dumps([first, devices.configure(), tf.__version__,"
        " tf.config.threading.get_intra_op_parallelism_threads()]))"
    )
    first, second, version, threads = profile
    assert first == second
    assert set(first) == {"device", "instruction_set", "threads", "tensorflow", "keras"}
    assert (first["tensorflow"], first["threads"], threads) == (version, num_cores(), num_cores())
    assert noise == ""


def test_make_deterministic_makes_tensorflow_refuse_what_is_not():
    refused, _ = run(
        "import json\nfrom pipelines.execution import devices\n"
        "devices.configure()\ndevices.make_deterministic()\n"
        "import tensorflow as tf\n"
        "try:\n    tf.random.uniform([1])\n    print('null')\n"
        "except RuntimeError as error:\n    print(json.dumps(str(error)))"
    )
    assert refused is not None
    assert "determinism" in refused

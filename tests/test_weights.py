from __future__ import annotations

import functools
import re

import h5py
import numpy as np
import pytest

from pipelines.errors import WeightsError
from pipelines.networks import weights

# Keras's `save_weights` calls np.array on its variables; NumPy 2 warns of their old __array__.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIDE = 96


def build(seed, *, classes=10, alpha=0.35, include_top=True, kind="MobileNetV2"):
    import keras

    keras.utils.set_random_seed(seed)
    sizes = {"alpha": alpha} if kind != "VGG16" else {}
    model = getattr(keras.applications, kind)(
        input_shape=(SIDE, SIDE, 3), weights=None, classes=classes, include_top=include_top, **sizes
    )
    # Biases and statistics start as constants, the same in every network: make each one its own.
    generator = np.random.default_rng(seed)
    model.set_weights([generator.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def save_legacy(model, path):
    """Write the layout of Keras 2's `save_weights`, in which keras.applications' files come."""
    with h5py.File(path, "w") as file:
        layers = [layer.name for layer in model.layers]
        # In two parts, as Keras splits lists that are too long for an HDF5 header.
        file.attrs["layer_names0"] = [n.encode() for n in layers[:20]]
        file.attrs["layer_names1"] = [n.encode() for n in layers[20:]]
        for layer in model.layers:
            group = file.create_group(layer.name)
            stored = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{weight.name}:0" for weight in stored]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, stored, strict=True):
                group[name] = np.asarray(weight)


def save_keras3(model, path):
    model.save_weights(path)


LAYOUTS = pytest.mark.parametrize(
    ("save", "file_name"), [(save_keras3, "net.weights.h5"), (save_legacy, "net.h5")]
)


# Networks that are written to files, built once; no test changes one.
built = functools.cache(build)


@pytest.fixture(scope="module")
def saved():
    return built(1)


@pytest.fixture(scope="module")
def another():
    """A network of the same layers, and the weights with which it began."""
    model = build(2)
    return model, model.get_weights()


@pytest.fixture
def fresh(another):
    """That network as it began."""
    model, values = another
    model.set_weights(values)
    return model


def assert_same_weights(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@LAYOUTS
def test_load_whole_file_gives_all_weights(saved, fresh, tmp_path, save, file_name):
    save(saved, tmp_path / file_name)
    assert weights.load(fresh, tmp_path / file_name) is True
    assert_same_weights(fresh.get_weights(), saved.get_weights())


@LAYOUTS
def test_load_file_without_top_keeps_the_classifier(fresh, tmp_path, save, file_name):
    body = built(3, include_top=False)
    save(body, tmp_path / file_name)
    classifier = fresh.layers[-1].get_weights()
    assert weights.load(fresh, tmp_path / file_name) is False
    assert_same_weights(fresh.get_weights()[:-2], body.get_weights())
    assert_same_weights(fresh.layers[-1].get_weights(), classifier)


@LAYOUTS
def test_load_mobilenet_without_its_convolutional_classifier_and_dropout(tmp_path, save, file_name):
    body = built(3, include_top=False, alpha=0.25, kind="MobileNet")
    whole = build(4, alpha=0.25, kind="MobileNet")
    save(body, tmp_path / file_name)
    assert weights.load(whole, tmp_path / file_name) is False
    assert_same_weights(whole.get_weights()[:-2], body.get_weights())


@LAYOUTS
def test_load_other_number_of_classes_names_both_shapes(saved, tmp_path, save, file_name):
    save(built(3, classes=7), tmp_path / file_name)
    message = re.escape(
        f"{file_name}: layer 'predictions' has shapes (1280, 7) (7,) in the file, "
        "(1280, 10) (10,) in the network"
    )
    before = saved.get_weights()
    with pytest.raises(WeightsError, match=message):
        weights.load(saved, tmp_path / file_name)
    assert_same_weights(saved.get_weights(), before)


@LAYOUTS
def test_load_wider_network_names_first_layer_that_differs(saved, tmp_path, save, file_name):
    save(built(3, alpha=0.5), tmp_path / file_name)
    before = saved.get_weights()
    with pytest.raises(WeightsError, match=r"layer '\w+' has shapes .* in the file, .* in the net"):
        weights.load(saved, tmp_path / file_name)
    assert_same_weights(saved.get_weights(), before)


@LAYOUTS
def test_load_network_without_its_first_dense_layer_says_which(tmp_path, save, file_name):
    save(built(3, include_top=False, kind="VGG16"), tmp_path / file_name)
    whole = build(4, kind="VGG16")
    with pytest.raises(WeightsError, match=r"has no layer 'fc1'.*only the classifier"):
        weights.load(whole, tmp_path / file_name)


@LAYOUTS
def test_load_file_with_more_layers_is_refused(saved, fresh, tmp_path, save, file_name):
    import keras

    longer = keras.Model(saved.input, keras.layers.Dense(3, name="one_more")(saved.output))
    save(longer, tmp_path / file_name)
    with pytest.raises(WeightsError, match="has a layer 'one_more' that the network has not"):
        weights.load(fresh, tmp_path / file_name)


@pytest.mark.parametrize("file_name", ["net.weights.h5", "net.h5", "cached-file"])
@pytest.mark.parametrize("save", [save_keras3, save_legacy])
def test_load_under_any_file_name_tells_the_layout_from_content(
    saved, fresh, tmp_path, save, file_name
):
    written = tmp_path / "written.weights.h5"
    save(saved, written)
    written.rename(tmp_path / file_name)
    assert weights.load(fresh, tmp_path / file_name) is True
    assert_same_weights(fresh.get_weights(), saved.get_weights())


def test_load_weights_inside_saved_model_file(saved, fresh, tmp_path):
    save_legacy(saved, tmp_path / "inner.h5")
    with h5py.File(tmp_path / "inner.h5") as inner, h5py.File(tmp_path / "model.h5", "w") as outer:
        inner.copy(inner, outer, "model_weights")
        outer.attrs["model_config"] = "never read"
    assert weights.load(fresh, tmp_path / "model.h5") is True
    assert_same_weights(fresh.get_weights(), saved.get_weights())


def two_layers(first, second):
    import keras

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name=second)(keras.layers.Dense(4, name=first)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="predictions")(hidden))


@LAYOUTS
def test_load_same_names_in_another_order_is_refused(tmp_path, save, file_name):
    """All shapes fit, and Keras, which goes by order, would swap the layers in silence."""
    save(two_layers("front", "back"), tmp_path / file_name)
    with pytest.raises(WeightsError, match="has layer 'front' in the place of 'back'"):
        weights.load(two_layers("back", "front"), tmp_path / file_name)


@LAYOUTS
def test_load_other_names_in_fitting_order_is_accepted(tmp_path, save, file_name):
    made = two_layers("conv_a", "conv_b")
    save(made, tmp_path / file_name)
    model = two_layers("first", "second")
    assert weights.load(model, tmp_path / file_name) is True
    assert_same_weights(model.get_weights(), made.get_weights())


@LAYOUTS
def test_load_nested_models_in_both_layouts(tmp_path, save, file_name):
    import keras

    def nested(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((8, 8, 3))
        stem = keras.Sequential(
            [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()], name="stem"
        )
        pooled = keras.layers.GlobalAveragePooling2D()(stem(inputs))
        return keras.Model(inputs, keras.layers.Dense(2)(pooled))

    made, model = nested(1), nested(2)
    save(made, tmp_path / file_name)
    assert weights.load(model, tmp_path / file_name) is True
    assert_same_weights(model.get_weights(), made.get_weights())


@LAYOUTS
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_load_truncated_file_raises(saved, fresh, tmp_path, save, file_name, kept):
    path = tmp_path / file_name
    save(saved, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(WeightsError, match=f"{file_name}: cannot be read as a Keras weights file"):
        weights.load(fresh, path)


def test_load_text_file_raises(fresh, tmp_path):
    path = tmp_path / "notes.weights.h5"
    path.write_text("these are no weights")
    with pytest.raises(WeightsError, match=r"notes\.weights\.h5: cannot be read"):
        weights.load(fresh, path)


def test_load_missing_file_raises(fresh, tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.h5: cannot be read.*No such file"):
        weights.load(fresh, tmp_path / "gone.h5")


def test_load_other_hdf5_file_raises(fresh, tmp_path):
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(WeightsError, match="no Keras weights file"):
        weights.load(fresh, tmp_path / "table.h5")


@pytest.mark.parametrize("link", [h5py.SoftLink("/elsewhere"), h5py.ExternalLink("o.h5", "/x")])
def test_load_file_with_link_is_refused(saved, fresh, tmp_path, link):
    path = tmp_path / "net.weights.h5"
    saved.save_weights(path)
    with h5py.File(path, "a") as file:
        del file["layers/conv2d"]
        file["layers/conv2d"] = link
    with pytest.raises(WeightsError, match="'conv2d' is a link, refused"):
        weights.load(fresh, path)


def test_load_array_stored_outside_the_file_is_refused(saved, fresh, tmp_path):
    path = tmp_path / "net.weights.h5"
    saved.save_weights(path)
    (tmp_path / "outside").write_bytes(bytes(4 * 3 * 3 * 3 * 16))
    with h5py.File(path, "a") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars"].create_dataset(
            "0",
            (3, 3, 3, 16),
            "float32",
            external=[(str(tmp_path / "outside"), 0, h5py.h5f.UNLIMITED)],
        )
    with pytest.raises(WeightsError, match="no array stored in the file itself"):
        weights.load(fresh, path)


def test_keys_of_expected_layers_are_those_keras_writes(saved, tmp_path):
    """The keys are worked out here, not asked of Keras: hold them against a file it wrote."""
    saved.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5") as file:
        for layer in weights._weighted_layers(saved, nested=True):
            written = file[layer.key]["vars"]
            assert tuple(written[str(i)].shape for i in range(len(written))) == layer.shapes

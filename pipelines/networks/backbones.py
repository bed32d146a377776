"""Backbones by name: the classification networks of keras.applications and EfficientNet-Lite0.

A backbone takes float32 images (batch, height, width, 3) as its protocol leaves them and is used
whole, with its classifier; `pipelines.networks.nodes` cuts it.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, WeightsError
from pipelines.networks import efficientnet_lite0, nodes
from pipelines.networks import graph as graphs
from pipelines.networks import weights as weight_files

IMAGENET = "imagenet"
NONE = "none"
LITE0 = "efficientnet_lite0"

# How each module of keras.applications wants its pixels (its `preprocess_input`):
# symmetric x / 127.5 - 1; caffe BGR minus the ImageNet mean; torch (x / 255 - mean) / std;
# raw 0..255, the network has the scaling inside. A test holds them against Keras.
_PROTOCOLS = {
    "convnext": "raw",
    "densenet": "torch",
    "efficientnet": "raw",
    "efficientnet_v2": "raw",
    "inception_resnet_v2": "symmetric",
    "inception_v3": "symmetric",
    "mobilenet": "symmetric",
    "mobilenet_v2": "symmetric",
    "mobilenet_v3": "raw",
    "nasnet": "symmetric",
    "resnet": "caffe",
    "resnet_v2": "symmetric",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "symmetric",
}
# MobileNetV3 alone has no fixed side in Keras; its weights were trained at 224 (file names).
_SIDE_WITHOUT_DEFAULT = 224
# Standard deviation of ImageNet's R, G, B in 0..1, as in keras.applications.efficientnet.
_IMAGENET_STDDEV = (0.229, 0.224, 0.225)
_WORDS = re.compile(r"(?:[A-Z][a-z]*?|[A-Z]+)(?:Net|NeXt)\d*|V\d+|B\d+|X?[A-Z][a-z]+\d*|[A-Z]+\d*")
_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Backbone:
    """A built network and what identifies it.

    Attributes:
        name: snake_case name.
        model: keras Functional model, float32 (batch, side, side, 3) to (batch, num_classes).
        input_size: side of the square input in pixels.
        protocol: name of the preprocessing that the input must have gone through.
        weights: as asked: `imagenet`, `none` or a path.
        weights_sha256: over all arrays in model order: path (the layer's canonical name and the
            array's index in it), dtype, shape and bytes.
        has_classifier: whether trained classifier weights were loaded.
        num_classes: width of the classifier.
    """

    name: str
    model: Any
    input_size: int
    protocol: str
    weights: str
    weights_sha256: str
    has_classifier: bool
    num_classes: int


def names() -> tuple[str, ...]:
    """Name every backbone, EfficientNet-Lite0 first, those of keras.applications in order."""
    return (LITE0, *sorted(_builders()))


def protocol_name(name: str) -> str:
    """Name the preprocessing that a backbone expects, without building it.

    Args:
        name: a backbone's name.

    Returns:
        `symmetric`, `caffe`, `torch`, `raw` or `lite`.

    Raises:
        ConfigError: there is no backbone of that name.
    """
    if name == LITE0:
        return "lite"
    module = _module(_builder(name))
    if module not in _PROTOCOLS:
        raise ConfigError(
            f"backbone {name!r}: the preprocessing of keras.applications.{module} is not known; "
            "choose another backbone"
        )
    return _PROTOCOLS[module]


def load(name: str, weights: str = IMAGENET, seed: int = 0) -> Backbone:
    """Build a backbone with its weights.

    Args:
        name: a backbone's name.
        weights: `imagenet` (for keras.applications through Keras's own download), `none` (random)
            or the path of a Keras weights file, with or without the classifier.
        seed: decides the random weights, also those of a classifier that a file lacks; sets
            TensorFlow's global seed, Python's and NumPy's stay as they are.

    Returns:
        The backbone.

    Raises:
        ConfigError: there is no backbone of that name.
        WeightsError: the weights cannot be had or do not fit.
    """
    protocol = protocol_name(name)
    is_file = weights not in (IMAGENET, NONE)
    if is_file:
        _check_exists(name, weights)
    if name == LITE0:
        model = efficientnet_lite0.build(NONE if is_file else weights, seed)
    else:
        model = _build_application(name, weights, seed)
    has_classifier = weight_files.load(model, weights) if is_file else weights == IMAGENET
    kernel, _ = nodes.classifier(model)
    return Backbone(
        name=name,
        model=model,
        input_size=int(model.input_shape[1]),
        protocol=protocol,
        weights=weights,
        weights_sha256=_hash_arrays(name, model),
        has_classifier=has_classifier,
        num_classes=int(kernel.shape[1]),
    )


def weights_identity(name: str, weights: str) -> dict[str, str | None]:
    """Say what the weights are without building anything; imports neither Keras nor TensorFlow.

    Args:
        name: a backbone's name; not checked here.
        weights: `imagenet`, `none` or the path of a weights file.

    Returns:
        `weights`: `imagenet`, `none` or the file's name; `weights_file_sha256`: of the file, None
        where Keras downloads it or there is none.

    Raises:
        WeightsError: the file is missing or cannot be read.
    """
    if weights == NONE or (weights == IMAGENET and name != LITE0):
        return {"weights": weights, "weights_file_sha256": None}
    if weights == IMAGENET:
        return {
            "weights": weights,
            "weights_file_sha256": _hash_file(efficientnet_lite0.weights_path()),
        }
    path = _check_exists(name, weights)
    return {"weights": path.name, "weights_file_sha256": _hash_file(path)}


def _builders() -> dict[str, Callable[..., Any]]:
    """Find the builders: what keras.applications itself offers under a capital letter."""
    import keras

    return {
        _snake_case(attribute): builder
        for attribute, builder in vars(keras.applications).items()
        if attribute[0].isupper() and callable(builder)
    }


def _snake_case(builder_name: str) -> str:
    """Spell `InceptionResNetV2` as inception_resnet_v2, `NASNetMobile` as nasnet_mobile."""
    return "_".join(_WORDS.findall(builder_name)).lower()


def _builder(name: str) -> Callable[..., Any]:
    builders = _builders()
    if name not in builders:
        known = (LITE0, *builders)
        nearest = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.4) or [LITE0]
        raise ConfigError(
            f"backbone {name!r}: no network of that name, the nearest are {', '.join(nearest)}"
        )
    return builders[name]


def _module(builder: Callable[..., Any]) -> str:
    return builder.__module__.rpartition(".")[2]


def _build_application(name: str, weights: str, seed: int) -> Any:
    builder = _builder(name)
    with _seeded(seed):
        if weights == IMAGENET:
            return _with_fixed_side(lambda **shape: _download(name, builder, **shape))
        model = _with_fixed_side(lambda **shape: builder(weights=None, **shape))
        if weights != NONE and _module(builder) == "efficientnet":
            return _with_imagenet_scaling(model)
        return model


def _with_fixed_side(build: Callable[..., Any]) -> Any:
    """Build at Keras's default size, or at one of our own where Keras leaves the sides open."""
    model = build()
    if model.input_shape[1] is None:
        return build(input_shape=(_SIDE_WITHOUT_DEFAULT, _SIDE_WITHOUT_DEFAULT, 3))
    return model


def _download(name: str, builder: Callable[..., Any], **shape: Any) -> Any:
    """Build with Keras's ImageNet weights; its downloader raises a bare Exception when offline."""
    try:
        return builder(weights=IMAGENET, **shape)
    except Exception as error:
        raise WeightsError(
            f"backbone {name!r}: Keras cannot get its imagenet weights ({_first_line(error)}); "
            "download the file elsewhere and pass --weights PATH, or use the backbone "
            f"{LITE0}, whose weights come with a package"
        ) from error


def _with_imagenet_scaling(model: Any) -> Any:
    """Insert the scaling that Keras builds into EfficientNet B0..B7 for `imagenet` only.

    The published weights need inputs divided by the root of the standard deviation once more
    (keras.applications.efficientnet; tensorflow issue 49930). With a path Keras leaves it out, and
    the same file would give other numbers.
    """
    import keras

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            return keras.layers.Rescaling([1 / stddev**0.5 for stddev in _IMAGENET_STDDEV])(output)
        return output

    return keras.models.clone_model(model, call_function=call)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what Keras's initialisers draw from, and give Python's and NumPy's state back after."""
    import keras

    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  (Keras seeds the global one)
    try:
        keras.utils.set_random_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _hash_arrays(name: str, model: Any) -> str:
    """Hash all weights of a network, the same in every process that holds the same numbers."""
    operations = tuple(model.operations)
    canonical = graphs.canonical_names(name, operations)
    digest = hashlib.sha256()
    for operation, layer_name in zip(operations, canonical, strict=True):
        for index, weight in enumerate(getattr(operation, "weights", ())):
            # Not the weight's own path: Keras numbers unnamed ones (ConvNeXt's scales) through
            # the process, as it does with layers.
            array = np.ascontiguousarray(weight.numpy())
            path = f"{layer_name}/{index}"
            digest.update(f"{path}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(array.data)
    return digest.hexdigest()


def _check_exists(name: str, weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(
            f"backbone {name!r}, weights {weights!r}: no such file; "
            f"give {IMAGENET}, {NONE} or the path of a Keras weights file"
        )
    return path


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); check the path") from error
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

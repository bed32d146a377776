"""The frozen part at work: rows of variants in, feature maps of every asked node out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ImageError, ShardError
from pipelines.images import codecs, decode, preprocess
from pipelines.storage.variants import ORIGINAL, VariantRow


@dataclass(frozen=True)
class Decoding:
    """How the files of a set of variants become pixels.

    Attributes:
        max_megapixels: largest accepted original.
        decode_variant: from the bytes of a variant to uint8 pixels, by the set's codec.
    """

    max_megapixels: float
    decode_variant: Callable[[bytes], np.ndarray]

    @classmethod
    def of_set(cls, fingerprint: Mapping[str, Any]) -> Decoding:
        """Read it from the fingerprint of a set.

        Raises:
            ManifestError: the set's codec is one that this program does not know.
        """
        return cls(fingerprint["max_megapixels"], codecs.decoder_of(fingerprint["codec"]))


def prepare_image(
    row: VariantRow,
    branches: Sequence[str],
    protocol: preprocess.Protocol,
    decoding: Decoding,
    out: np.ndarray,
) -> None:
    """Decode and resize the versions of one image.

    Args:
        row: the image with the variants named by `branches`.
        branches: variant names.
        protocol: of the backbone.
        decoding: how their files become pixels.
        out: uint8 (branches, size, size, 3), is filled.

    Raises:
        ShardError: a stored version cannot be decoded: the shard does not hold what was written.
    """
    for j, (branch, data) in enumerate(zip(branches, row.variants, strict=True)):
        try:
            if branch == ORIGINAL:
                image = decode.decode_original(data, max_megapixels=decoding.max_megapixels)
            else:
                image = decoding.decode_variant(data)
        except ImageError as error:
            raise ShardError(
                f"variant {branch} of {row.id}: {error}; the shard is damaged: "
                "delete it and compress again"
            ) from error
        out[j] = preprocess.to_input(image, protocol)


@dataclass(frozen=True)
class Batch:
    """The fixed shape of what runs forward at once: the last bits of numbers change with it.

    Attributes:
        num_images: images.
        num_branches: versions of each.
        shape: of one input, (side, side, 3) of pixels or a node's (height, width, channels).
        protocol: scales uint8 pixels on the device; None where the inputs are feature maps.
    """

    num_images: int
    num_branches: int
    shape: tuple[int, ...]
    protocol: preprocess.Protocol | None

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of the whole input array."""
        return (self.num_images, self.num_branches, *self.shape)

    @property
    def dtype(self) -> str:
        """Dtype of the whole input array."""
        return "float32" if self.protocol is None else "uint8"


def build(
    part: Any, names: Sequence[str], batch: Batch
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile the frozen part for one batch shape.

    Args:
        part: keras model from scaled images or feature maps to feature maps by node name.
        names: of the nodes, in the order wanted.
        batch: what goes in at once.

    Returns:
        A function from arrays of `batch` to a list of float32 (images, branches, *shape), one a
        node.
    """

    def compute(inputs: Any) -> list[Any]:
        outputs = part(inputs, training=False)
        return [outputs[name] for name in names]

    run = _compile(batch, compute)
    return lambda inputs: [output.numpy() for output in run(inputs)]


def build_scores(
    part: Any, kernel: np.ndarray, bias: np.ndarray, batch: Batch
) -> Callable[[np.ndarray], np.ndarray]:
    """Compile the way to the decision layer's scores, before its softmax.

    Args:
        part: keras model from scaled images or feature maps to the decision layer's input.
        kernel: float32 (D, classes).
        bias: float32 (classes,).
        batch: what goes in at once.

    Returns:
        A function from arrays of `batch` to float32 (images, branches, classes).
    """
    import tensorflow as tf

    def score(inputs: Any) -> list[Any]:
        features = tf.cast(part(inputs, training=False), tf.float32)
        features = tf.reshape(features, (-1, kernel.shape[0]))
        return [tf.matmul(features, kernel) + bias]

    run = _compile(batch, score)
    return lambda inputs: run(inputs)[0].numpy()


def working_bytes(part: Any) -> int:
    """Guess the memory that one image takes on its way, from the largest of its maps.

    Args:
        part: keras model.

    Returns:
        Twice the most that any operation reads and writes, as float32.
    """
    largest = 0
    for operation in part.operations:
        tensors = [*_tensors(operation.input), *_tensors(operation.output)]
        largest = max(largest, sum(4 * math.prod(tensor.shape[1:]) for tensor in tensors))
    return 2 * largest


def _tensors(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def _compile(
    batch: Batch, compute: Callable[[Any], list[Any]]
) -> Callable[[np.ndarray], list[Any]]:
    """Fold the branches into the batch, compute, unfold them."""
    import tensorflow as tf

    folded = (batch.num_images, batch.num_branches)

    @tf.function(input_signature=[tf.TensorSpec(batch.full_shape, batch.dtype)], autograph=False)
    def run(arrays: Any) -> list[Any]:
        inputs = tf.reshape(arrays, (-1, *batch.shape))
        if batch.protocol is not None:
            inputs = preprocess.scale(tf.cast(inputs, tf.float32), batch.protocol)
        outputs = (tf.cast(out, tf.float32) for out in compute(inputs))
        return [tf.reshape(out, (*folded, *out.shape[1:])) for out in outputs]

    return lambda arrays: run(tf.constant(arrays, batch.dtype))

"""The frozen part at work: rows of variants in, feature maps of every asked node out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipelines.errors import ImageError, ShardError
from pipelines.images import decode, preprocess
from pipelines.images.codecs import decode_variant
from pipelines.storage.variants import ORIGINAL, VariantRow


def prepare(
    rows: Sequence[VariantRow],
    branches: Sequence[str],
    protocol: preprocess.Protocol,
    batch_size: int,
    max_megapixels: float,
) -> np.ndarray:
    """Decode and resize the versions of some images.

    Args:
        rows: at most `batch_size` images, each with the variants named by `branches`.
        branches: variant names.
        protocol: of the backbone.
        batch_size: images in the result; what `rows` lacks is padded with black.
        max_megapixels: largest accepted original.

    Returns:
        uint8 (batch_size, branches, size, size, 3), RGB 0..255.

    Raises:
        ShardError: a stored version cannot be decoded: the shard does not hold what was written.
    """
    shape = (batch_size, len(branches), protocol.size, protocol.size, 3)
    pixels = np.zeros(shape, np.uint8)
    for i, row in enumerate(rows):
        for j, (branch, data) in enumerate(zip(branches, row.variants, strict=True)):
            try:
                if branch == ORIGINAL:
                    image = decode.decode_original(data, max_megapixels=max_megapixels)
                else:
                    image = decode_variant(data)
            except ImageError as error:
                raise ShardError(
                    f"variant {branch} of {row.id}: {error}; the shard is damaged: "
                    "delete it and compress again"
                ) from error
            pixels[i, j] = preprocess.to_input(image, protocol)
    return pixels


def build(
    front: Any,
    names: Sequence[str],
    protocol: preprocess.Protocol,
    num_images: int,
    num_branches: int,
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile the frozen part for one batch shape.

    Args:
        front: keras model from scaled images to feature maps by node name.
        names: of the nodes, in the order wanted.
        protocol: of the backbone; only uint8 goes to the device, scaling happens there.
        num_images: images a batch.
        num_branches: versions an image.

    Returns:
        A function from uint8 (images, branches, size, size, 3) to a list of float32
        (images, branches, *shape), one a node.
    """
    import tensorflow as tf

    shape = (num_images, num_branches, protocol.size, protocol.size, 3)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    def run(pixels: Any) -> list[Any]:
        images = tf.reshape(pixels, (num_images * num_branches, *shape[2:]))
        outputs = front(preprocess.scale(tf.cast(images, tf.float32), protocol), training=False)
        return [
            tf.reshape(outputs[name], (num_images, num_branches, *outputs[name].shape[1:]))
            for name in names
        ]

    return lambda pixels: [output.numpy() for output in run(tf.constant(pixels))]

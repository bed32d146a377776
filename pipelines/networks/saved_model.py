"""A trained network as a TensorFlow SavedModel, which serves inputs and the bytes of images."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from pipelines.images import bytes_ops, preprocess
from pipelines.images.versions import Versions
from pipelines.networks.portable import INPUT, OUTPUT

DEFAULT, BYTES = "serving_default", "serving_bytes"
IMAGES = "images"


def write(model: Any, versions: Versions, folder: Path) -> list[str]:
    """Write a SavedModel.

    `serving_default` takes `variants`, what the Keras model takes; `serving_bytes` takes `images`,
    strings (batch,), each a JPEG or PNG file. Both give `probabilities`, float32 (batch, classes).

    Args:
        model: as `portable.build` makes it.
        versions: how images become its input.
        folder: to write into; is made.

    Returns:
        The names of the signatures; without `serving_bytes` where TensorFlow cannot make the
        variants.

    Raises:
        OSError: the file system refuses.
    """
    import tensorflow as tf

    def scores(variants: Any) -> dict[str, Any]:
        return {OUTPUT: model(variants, training=False)}

    def scores_of_bytes(images: Any) -> dict[str, Any]:
        with tf.device("CPU"):  # the only place for strings and image files
            pixels = tf.map_fn(
                lambda data: bytes_ops.to_inputs(data, versions),
                images,
                fn_output_signature=tf.TensorSpec(versions.shape, tf.uint8),
                parallel_iterations=1,  # its branches run side by side already
            )
        return scores(preprocess.scale(tf.cast(pixels, tf.float32), versions.protocol))

    inputs = tf.TensorSpec((None, *versions.shape), tf.float32, name=INPUT)
    functions = {DEFAULT: _compiled(scores, inputs)}
    if not bytes_ops.why_not(versions):
        images = tf.TensorSpec((None,), tf.string, name=IMAGES)
        functions[BYTES] = _compiled(scores_of_bytes, images)
    module = tf.Module()
    module.variables_read = [variable.value for variable in model.variables]
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:  # "<operation> <path>; <reason> [Op:<name>]"
        reason = error.message.rpartition("; ")[2].partition(" [Op")[0]
        raise OSError(errno.EIO, reason, str(folder)) from error
    return list(signatures)


def _compiled(function: Any, signature: Any) -> Any:
    import tensorflow as tf

    return tf.function(function, input_signature=[signature], autograph=False)

"""What an exported model says of itself: what goes in, what comes out, for programs and people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.images import codecs, preprocess
from pipelines.images.control_codec import ControlCodec
from pipelines.images.jpeg import JpegCodec
from pipelines.networks import portable
from pipelines.storage.variants import ORIGINAL
from pipelines.trained import Finished
from pipelines.training import checkpoints

FORMAT, FORMAT_VERSION = "bottleneck-export", 1

_READ_ME = """\
# {run}

A classifier of {num_classes} classes, trained with bottleneck: {backbone} up to the node `{node}`,
then what was trained behind it, on {num_branches} versions of every image at once. `model.json`
says the same as this page to programs.

## What goes in

`variants`, float32 ({shape}): image, branch, row, column, colour. Branches in this order:

{branches}

Each version of an image:

1. {how}; the original as it is. A grayscale image stays one until the last step.
2. {crop}, resized to {size} x {size}, {interpolation} with antialiasing (Pillow {pillow}).
3. `{scaling}`, x from 0 to 255, RGB; a grayscale image three times the same.

## What comes out

`probabilities`, float32 (images, {num_classes}), adding up to 1, in the order of `classes` in
`model.json`: {classes}.

## How

`model.keras`, of Keras's own layers, written with Keras {keras}:

```python
import keras

model = keras.models.load_model("model.keras")
probabilities = model.predict(variants)
```

`saved_model/`, written with TensorFlow {tensorflow}:

```python
import tensorflow as tf

served = tf.saved_model.load("saved_model").signatures
probabilities = served["serving_default"](variants=variants)["probabilities"]
{of_bytes}```
{limits}"""
_HOW = {
    JpegCodec.format: (
        "JPEG at its quality, chroma {subsampling}, accurate DCT, decoded with the accurate DCT "
        "and smooth\n   upsampling"
    ),
    ControlCodec.format: (
        "Changed as it says, in whole numbers: half a pixel further is the average of the two or "
        "four\n   pixels that meet there, those at the edge repeated; gamma g makes of a level x "
        "255 (x / 255)^g,\n   rounded"
    ),
}
_OF_BYTES = """\
files = tf.stack([tf.io.read_file(path) for path in paths])
probabilities = served["serving_bytes"](images=files)["probabilities"]
"""
_LIMITS = """
`serving_bytes` makes the versions itself. It takes JPEG and PNG files alone, does not apply EXIF
orientation (turn photographs upright before), reads a PNG's transparent gray level as a colour, and
refuses no image for its size.
"""
_NO_BYTES = """
There is no signature for the bytes of images: {reason}.
"""


def describe(
    run: Finished, signatures: Sequence[str], profile: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what goes in and comes out of a run's model, for programs.

    Args:
        run: that was exported.
        signatures: of its SavedModel.
        profile: what it was written with: versions of keras and tensorflow.

    Returns:
        The content of model.json.
    """
    versions, described = run.versions, run.described
    made_from = described.fingerprint["cache"]
    codec = versions.codec
    quality_of = codec.quality_of if isinstance(codec, JpegCodec) else {}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "run": run.name,
        "backbone": made_from["backbone"],
        "weights_sha256": made_from["weights_sha256"],
        "checkpoint_sha256": checkpoints.sha256(run.checkpoint),
        "node": described.node,
        "blocks": list(described.blocks),
        "fusion": described.fusion,
        "classes": list(described.classes),
        "branches": list(described.branches),
        "qualities": [quality_of.get(branch) for branch in described.branches],
        "codec": made_from["variants"]["codec"],
        "protocol": made_from["protocol"],
        "scaling": preprocess.FORMULAS[versions.protocol.scaling],
        "input": {
            "name": portable.INPUT,
            "dtype": "float32",
            "shape": [None, *versions.shape],
            "axes": ["image", "branch", "row", "column", "colour"],
        },
        "output": {
            "name": portable.OUTPUT,
            "dtype": "float32",
            "shape": [None, len(described.classes)],
        },
        "signatures": list(signatures),
        "keras": profile["keras"],
        "tensorflow": profile["tensorflow"],
    }


def read_me(values: Mapping[str, Any], no_bytes: str | None) -> str:
    """Say the same for people.

    Args:
        values: as `describe` gives them.
        no_bytes: why there is no signature for the bytes of images; None where there is one.
    """
    protocol, codec = values["protocol"], values["codec"]
    share = f"{100 * protocol['crop_fraction']:g}%"
    square = f"The central square of {share} of the shorter side"
    limits = _NO_BYTES.format(reason=no_bytes) if no_bytes else _LIMITS
    classes = values["classes"]
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    return _READ_ME.format(
        run=values["run"],
        backbone=values["backbone"],
        node=values["node"],
        num_classes=len(classes),
        num_branches=len(values["branches"]),
        shape=", ".join(["images", *map(str, values["input"]["shape"][1:])]),
        branches="\n".join(f"- {words}" for words in _in_words(values)),
        how=_HOW[codec["format"]].format(**codec),
        crop=square if protocol["keeps_aspect"] else f"The central {share} of each side",
        size=protocol["size"],
        interpolation=protocol["interpolation"],
        pillow=protocol["library_version"],
        scaling=values["scaling"],
        classes=", ".join(classes[:20]) + more,
        keras=values["keras"],
        tensorflow=values["tensorflow"],
        of_bytes="" if no_bytes else _OF_BYTES,
        limits=limits,
    )


def _in_words(values: Mapping[str, Any]) -> Iterator[str]:
    codec = codecs.from_description(values["codec"])
    for branch in values["branches"]:
        is_original = branch == ORIGINAL
        yield "the original" if is_original else f"{codec.in_words(branch)} (`{branch}`)"

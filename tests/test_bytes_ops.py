"""Image files decoded, compressed and resized by TensorFlow: the pixels of the pipeline itself."""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path

import images
import numpy as np
import PIL
import pytest
from PIL import Image
from skimage import data

from pipelines.errors import ImageError
from pipelines.images import bytes_ops, decode, preprocess
from pipelines.images.control_codec import ControlCodec
from pipelines.images.jpeg import JpegCodec
from pipelines.images.versions import Versions

QUALITIES = tuple(range(10, 101, 10))
BRANCHES = ("original", *(f"q{quality:03d}" for quality in QUALITIES))


def versions_of(subsampling: str, branches: tuple[str, ...] = BRANCHES) -> Versions:
    protocol = preprocess.for_backbone("symmetric", 299)
    codec = JpegCodec(QUALITIES, subsampling)
    return Versions(branches, codec, protocol, 100.0, PIL.__version__)


@functools.cache
def decoder():
    import tensorflow as tf

    signature = [tf.TensorSpec((), tf.string)]
    return tf.function(bytes_ops.decode, input_signature=signature, autograph=False)


@functools.cache
def maker(subsampling: str):
    import tensorflow as tf

    return tf.function(
        lambda file: bytes_ops.to_inputs(file, versions_of(subsampling)),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )


def png(mode: str, **options: object) -> bytes:
    """Save a photograph in one of Pillow's modes, with noise as its alpha where it has one."""
    image = Image.fromarray(data.chelsea()[:120, :90])
    rng = np.random.default_rng(0)
    if mode == "I;16":
        fine = rng.integers(0, 256, (120, 90), dtype=np.uint16)
        image = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 256 + fine)
    else:
        image = image.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(rng.integers(0, 256, (120, 90), dtype=np.uint8)))
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    return images.to_file(Image.fromarray(data.coffee()).convert(mode), "JPEG", **options)


FILES = {
    **{f"png {mode}": png(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png, a transparent colour": png("RGB", transparency=(130, 100, 80)),
    "png, a transparent palette entry": images.palette_png(),
    **{f"jpeg {mode}": jpeg(mode) for mode in ("L", "RGB", "CMYK")},
    **{f"jpeg {chroma}": jpeg(subsampling=chroma) for chroma in ("4:4:4", "4:2:2", "4:2:0")},
    "jpeg, progressive": jpeg(progressive=True),
}


@pytest.mark.parametrize("name", FILES)
def test_decode_gives_the_pixels_of_the_original(name):
    expected = decode.decode_original(FILES[name])
    expected = expected[:, :, np.newaxis] if expected.ndim == 2 else expected
    np.testing.assert_array_equal(decoder()(FILES[name]), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_decode_of_16_bits_gives_the_pixels_of_the_original(channels):
    import tensorflow as tf

    values = np.random.default_rng(3).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    file = tf.io.encode_png(values).numpy()
    expected = decode.decode_original(file).reshape(40, 50, -1)
    found = np.broadcast_to(decoder()(file), expected.shape)  # Pillow reads gray with alpha as RGB
    np.testing.assert_array_equal(found, expected)


def test_decode_leaves_a_photograph_turned_as_the_docs_say():
    upright = images.photo()
    found = decoder()(images.rotated_jpeg(6, upright)).numpy()
    assert found.shape == (64, 48, 3)
    assert decode.decode_original(images.rotated_jpeg(6, upright)).shape == (48, 64, 3)


@pytest.mark.parametrize("file", [b"", b"BM\xe6\xff\x00", b"\x1f\x8b", b"GIF89a", b"no image"])
def test_decode_of_another_file_raises(file):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="neither a JPEG nor a PNG file"):
        decoder()(file)


@pytest.mark.parametrize("file", [jpeg(), png("RGB")])
def test_decode_of_half_a_file_raises(file):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        decoder()(images.truncated(file))
    with pytest.raises(ImageError):
        decode.decode_original(images.truncated(file))


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "brick", "camera"])
def test_to_inputs_of_a_photograph_are_those_of_the_pipeline(name, subsampling, tmp_path):
    path = images.write_jpeg(tmp_path / "a.jpg", getattr(data, name)(), quality=92)
    found = maker(subsampling)(path.read_bytes())
    np.testing.assert_array_equal(found, versions_of(subsampling).read(path))


def test_to_inputs_of_solar_cells_are_those_of_the_pipeline():
    import elpv_dataset

    folder = Path(elpv_dataset.__file__).parent / "data" / "images"
    for path in sorted(folder.glob("*.png"))[:20]:
        found = maker("4:2:0")(path.read_bytes())
        np.testing.assert_array_equal(found, versions_of("4:2:0").read(path))


def test_why_not_names_the_subsampling_that_tensorflow_lacks():
    assert bytes_ops.why_not(versions_of("4:2:0")) is None
    assert bytes_ops.why_not(versions_of("4:4:4")) is None
    assert bytes_ops.why_not(versions_of("4:2:2")).endswith("chroma subsampling 4:2:2")
    assert bytes_ops.why_not(versions_of("4:2:2", ("original",))) is None


def test_why_not_names_the_control_set():
    versions = dataclasses.replace(
        versions_of("4:2:0"), branches=("original", "control_01"), codec=ControlCodec()
    )
    assert "control set are made by this program alone" in bytes_ops.why_not(versions)
    assert bytes_ops.why_not(dataclasses.replace(versions, branches=("original",))) is None

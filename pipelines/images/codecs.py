"""Codecs: what makes the versions of an image that a set of variants holds beside the original.

There are two, `jpeg.JpegCodec` and `control_codec.ControlCodec`. Every version is a file in the
set; a codec can as well give its pixels without making the set, and they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from pipelines.errors import ManifestError
from pipelines.images.control_codec import ControlCodec, decode_png
from pipelines.images.jpeg import JpegCodec, decode_jpeg
from pipelines.storage.set_folders import CONTROL


class Codec(Protocol):
    """Makes the versions of one image; small, never changed, and handed to other processes.

    Attributes:
        format: of the files.
        size_to_original: size of all versions over the original's, for a guess before there is any:
            on photographs of 500x375 as `benchmarks/photos.py` makes them.
    """

    format: ClassVar[str]
    size_to_original: ClassVar[float]

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the versions, in the order of `encode`."""

    def encode(self, pixels: np.ndarray) -> list[bytes]:
        """Return a file for every version of uint8 (height, width) or (height, width, 3).

        Raises:
            ImageError: the array is no such image, or too large.
        """

    def versions(self, pixels: np.ndarray, names: Sequence[str]) -> Iterator[np.ndarray]:
        """Give the pixels of the named versions, one after another, as their files hold them.

        Raises:
            ImageError: as `encode` does.
        """

    def in_words(self, name: str) -> str:
        """Say in a few words what a version is."""

    def describe(self) -> dict[str, Any]:
        """Name all that decides the bytes of a version, for the fingerprint of a cache."""


_DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    JpegCodec.format: decode_jpeg,
    ControlCodec.format: decode_png,
}
_CODECS: dict[str, type[JpegCodec] | type[ControlCodec]] = {
    JpegCodec.format: JpegCodec,
    ControlCodec.format: ControlCodec,
}


def of_settings(settings: Mapping[str, Any]) -> Codec:
    """Return the codec that the settings of `compress` ask for.

    Raises:
        ConfigError: the settings of JPEG are none.
    """
    if settings["set"] == CONTROL:
        return ControlCodec()
    return JpegCodec(tuple(settings["qualities"]), settings["subsampling"])


def from_description(described: Mapping[str, Any]) -> Codec:
    """Return the codec that a fingerprint describes, whatever libraries it names.

    Raises:
        ManifestError: its format is one that this program does not know.
        ConfigError: an amount in it is out of its range.
        KeyError: it is no description.
        TypeError: neither is this.
    """
    name = described["format"]
    if name not in _CODECS:
        raise _unknown(name)
    return _CODECS[name].from_description(described)


def decoder_of(described: Mapping[str, Any]) -> Callable[[bytes], np.ndarray]:
    """Return what reads the files of a codec back.

    Args:
        described: the codec; one that names no format is of the first JPEG sets.

    Returns:
        A function from a file to uint8 (height, width) or (height, width, 3), which raises
        ImageError for a damaged one.

    Raises:
        ManifestError: its format is one that this program does not know.
    """
    name = described.get("format", JpegCodec.format)
    if name not in _DECODERS:
        raise _unknown(name)
    return _DECODERS[name]


def _unknown(name: object) -> ManifestError:
    return ManifestError(
        f"variants of format {name}: this program knows {' and '.join(_DECODERS)} alone; "
        "update the program"
    )

"""The versions of one image as a network gets them, made in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, ManifestError
from pipelines.images import codecs, decode, preprocess
from pipelines.images.codecs import Codec
from pipelines.images.encode import Encoder
from pipelines.storage.fingerprint import check_same
from pipelines.storage.variants import ORIGINAL

_PROTOCOL_KEYS = ("name", "size", "crop_fraction", "interpolation", "scaling", "keeps_aspect")


@dataclass(frozen=True)
class Versions:
    """How the images of a cache became the input of its network, to do the same with others.

    Attributes:
        branches: names, in the order of the branch axis.
        codec: of the variants that the cache was made from.
        protocol: of the network.
        max_megapixels: an image whose header declares more is refused.
        pillow: version that resized them.
    """

    branches: tuple[str, ...]
    codec: Codec
    protocol: preprocess.Protocol
    max_megapixels: float
    pillow: str

    @classmethod
    def of_cache(cls, fingerprint: Mapping[str, Any], branches: Sequence[str]) -> Versions:
        """Read it from what a cache was made from.

        Args:
            fingerprint: of the cache.
            branches: of it, in any order.

        Raises:
            ManifestError: it does not say so, or says what this program does not know.
        """
        try:
            made = fingerprint["variants"]
            protocol = fingerprint["protocol"]
            found = cls(
                tuple(branches),
                codecs.from_description(made["codec"]),
                preprocess.Protocol(**{key: protocol[key] for key in _PROTOCOL_KEYS}),
                float(made["max_megapixels"]),
                str(protocol["library_version"]),
            )
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ManifestError(
                f"what the cache was made from does not say how its images were prepared "
                f"({error!r}); extract and train again"
            ) from error
        unknown = [name for name in branches if name not in found.names]
        if unknown:
            raise ManifestError(
                f"branches {', '.join(unknown)}: the cache's variants are "
                f"{', '.join(found.names)}; extract and train again"
            )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Every version that can be made, the original first, whether it is a branch or not."""
        return (ORIGINAL, *self.codec.variant_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's input, (branches, side, side, 3)."""
        return (len(self.branches), self.protocol.size, self.protocol.size, 3)

    def read(self, path: Path) -> np.ndarray:
        """Read an image and make its versions.

        Args:
            path: of any image that `compress` takes.

        Returns:
            uint8 (branches, side, side, 3), RGB, 0..255.

        Raises:
            ImageError: it cannot be read, or is no image that can be used.
        """
        pixels = self._original(path)
        made = self.codec.versions(pixels, without_original(self.branches))
        out = np.empty(self.shape, np.uint8)
        fill(out, pixels, made, self.branches, self.protocol)
        return out

    def picture(self, image: Path | bytes, name: str) -> np.ndarray:
        """Make one version of an image, to be looked at: neither cropped nor resized.

        Args:
            image: path of any image that `compress` takes, or the bytes of its file, as a set's
                column `original` holds them.
            name: one of `names`.

        Returns:
            uint8 (height, width, 3), RGB, 0..255; of a gray image the same level three times.

        Raises:
            ConfigError: there is no such version.
            ImageError: the image cannot be read, or is none that can be used.
        """
        if name not in self.names:
            raise ConfigError(f"no version {name} of an image; there are {', '.join(self.names)}")
        pixels = self._original(image)
        if name != ORIGINAL:
            (pixels,) = self.codec.versions(pixels, [name])
        return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, np.newaxis], 3, axis=2)

    def _original(self, image: Path | bytes) -> np.ndarray:
        encoder = Encoder(Path(), self.codec, self.max_megapixels)
        return encoder.decode(image) if isinstance(image, bytes) else encoder.read(str(image))[1]

    def check_libraries(self, fingerprint: Mapping[str, Any], path: Path) -> None:
        """Check that the libraries here are those that the cache was made with.

        Args:
            fingerprint: of the cache.
            path: of the run, for the message.

        Raises:
            ManifestError: they are not, and pixels may differ; names the differences.
        """
        here = {
            "codec": self.codec.describe(),
            "decoder": decode.describe(),
            "protocol": self.protocol.describe(),
        }
        variants = fingerprint["variants"]
        made = {
            "codec": variants["codec"],
            "decoder": variants.get("decoder"),
            "protocol": fingerprint["protocol"],
        }
        check_same(made, here, path, "pixels, and so probabilities, may differ a little")


def without_original(branches: Sequence[str]) -> list[str]:
    """Return the branches whose versions a codec makes, in their order."""
    return [branch for branch in branches if branch != ORIGINAL]


def fill(
    out: np.ndarray,
    pixels: np.ndarray,
    made: Iterator[np.ndarray],
    branches: Sequence[str],
    protocol: preprocess.Protocol,
) -> None:
    """Put the versions of an image into their places.

    Args:
        out: uint8 (branches, side, side, 3), is filled.
        pixels: of the original, uint8 (height, width) or (height, width, 3).
        made: pixels of the branches that are not the original, in their order.
        branches: names.
        protocol: of the network.
    """
    for j, branch in enumerate(branches):
        image = pixels if branch == ORIGINAL else next(made)
        out[j] = preprocess.to_input(image, protocol)

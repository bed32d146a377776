"""The versions of one image as a network gets them, made in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, ManifestError
from pipelines.images import decode, preprocess
from pipelines.images.codecs import JpegCodec, decode_variant
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
    codec: JpegCodec
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
            if made["codec"]["format"] != "jpeg":
                raise ManifestError(
                    f"variants of format {made['codec']['format']}: this program makes jpeg alone; "
                    "update the program"
                )
            protocol = fingerprint["protocol"]
            found = cls(
                tuple(branches),
                JpegCodec(tuple(made["codec"]["qualities"]), made["codec"]["subsampling"]),
                preprocess.Protocol(**{key: protocol[key] for key in _PROTOCOL_KEYS}),
                float(made["max_megapixels"]),
                str(protocol["library_version"]),
            )
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ManifestError(
                f"what the cache was made from does not say how its images were prepared "
                f"({error!r}); extract and train again"
            ) from error
        unknown = [name for name in branches if name not in (ORIGINAL, *found.codec.variant_names)]
        if unknown:
            raise ManifestError(
                f"branches {', '.join(unknown)}: no variants of qualities "
                f"{','.join(map(str, found.codec.qualities))}; extract and train again"
            )
        return found

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
        encoder = Encoder(Path(), self.codec, self.max_megapixels)
        _, pixels = encoder.read(str(path))
        codec = of_branches(self.codec, self.branches)
        out = np.empty(self.shape, np.uint8)
        fill(out, pixels, codec.encode(pixels) if codec else [], self.branches, self.protocol)
        return out

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


def of_branches(codec: JpegCodec, branches: Sequence[str]) -> JpegCodec | None:
    """Return the codec of some branches alone, in their order; None where only the original is."""
    quality_of = dict(zip(codec.variant_names, codec.qualities, strict=True))
    chosen = tuple(quality_of[branch] for branch in branches if branch != ORIGINAL)
    return JpegCodec(chosen, codec.subsampling) if chosen else None


def fill(
    out: np.ndarray,
    pixels: np.ndarray,
    variants: Iterable[bytes],
    branches: Sequence[str],
    protocol: preprocess.Protocol,
) -> None:
    """Put the versions of an image into their places.

    Args:
        out: uint8 (branches, side, side, 3), is filled.
        pixels: of the original, uint8 (height, width) or (height, width, 3).
        variants: JPEG files of the branches that are not the original, in their order.
        branches: names.
        protocol: of the network.
    """
    left = iter(variants)
    for j, branch in enumerate(branches):
        image = pixels if branch == ORIGINAL else decode_variant(next(left))
        out[j] = preprocess.to_input(image, protocol)

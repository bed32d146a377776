"""The loops that NumPy has no words for, compiled by numba; they let the lock go.

Those of reading take binary cells as bytes end to end with their offsets, and write whole maps,
pixel by pixel, into one branch of a batch: `out` is (images, branches, height * width * channels).
They return the row of a cell that does not fit, or GOOD; whatever the cells hold, nothing is
written outside `out`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

GOOD = -1
_BLOCK = 16  # channels: a line of the processor's cache
_NEARER_TO_0 = np.uint32(0x33000000)  # 2^-25 and below it: float16 has nothing so small but 0
_U = np.uint64  # unsigned indices: numba tests signed ones for counting from the end


def _compiled(function: Any) -> Any:
    """Compile to run without the interpreter's lock; kept on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor a cache folder can be written
        return njit(nogil=True)(function)


@_compiled
def expand_sparse(
    masks: np.ndarray,
    mask_offsets: np.ndarray,
    planes: Any,
    offsets: np.ndarray,
    rows: np.ndarray,
    num_channels: int,
    is_half: bool,
    out: np.ndarray,
    branch: int,
    places: Any = None,
) -> int:
    """Write values to the positions that their mask names, zeros elsewhere.

    Args:
        masks: uint8, the masks' cells; a bit a position of (channels, height * width).
        mask_offsets: int64 (cells + 1,).
        planes: uint8 arrays, one a byte of the stored number, the lowest first.
        offsets: int64 (cells + 1,), of every plane.
        rows: int64 (images,), which cells.
        num_channels: of a map.
        is_half: turn float16 bits into float32 bits.
        out: unsigned integers of the wanted number's size, (images, branches, values).
        branch: which branch of `out`.
        places: int64 (images,), which images of `out`; None for its first ones.
    """
    num_values = out.shape[2]
    longest = 0
    for row in rows:
        longest = max(longest, offsets[row + 1] - offsets[row])
    bits = np.empty(longest, out.dtype)
    for i in range(rows.size):
        row = rows[i]
        words = masks[mask_offsets[row] : mask_offsets[row + 1]].view(np.uint64)
        start, stop = offsets[row], offsets[row + 1]
        values = bits[: stop - start]
        _join(planes, start, stop, values)
        if is_half:
            _half_to_single(values)
        image = out[i if places is None else places[i], branch]
        image[:] = 0
        if _has_bits_beyond(words, num_values):
            return row
        if not _scatter(words, values, num_channels, image):
            return row
    return GOOD


@_compiled
def expand_dense(
    planes: Any,
    rows: np.ndarray,
    is_half: bool,
    out: np.ndarray,
    branch: int,
    places: Any = None,
) -> None:
    """Write maps of which every value is stored; cells are of equal length.

    Args:
        planes: uint8 arrays, one a byte of the stored number, the lowest first.
        rows: int64 (images,), which cells.
        is_half: turn float16 bits into float32 bits.
        out: unsigned integers of the wanted number's size, (images, branches, values).
        branch: which branch of `out`.
        places: int64 (images,), which images of `out`; None for its first ones.
    """
    num_values = out.shape[2]
    for i in range(rows.size):
        start = rows[i] * num_values
        image = out[i if places is None else places[i], branch]
        _join(planes, start, start + num_values, image)
        if is_half:
            _half_to_single(image)


@_compiled
def dequantise(
    stored: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    out: np.ndarray,
    branch: int,
    places: Any = None,
) -> None:
    """Turn stored bytes into numbers: ((byte + zero point) mod 256 - zero point) * scale.

    Args:
        stored: uint8 (images, 1, values).
        scales: float32 (channels,).
        zero_points: int32 (channels,), 0..255.
        out: float32 (images, branches, values).
        branch: which branch of `out`.
        places: int64 (images,), which images of `out`; None for its first ones.
    """
    num_channels = scales.size
    for i in range(stored.shape[0]):
        image = out[i if places is None else places[i], branch]
        source = stored[i, 0]
        for first in range(0, source.size, num_channels):
            steps = source[first : first + num_channels]
            numbers = image[first : first + num_channels]
            for channel in range(num_channels):
                zero = zero_points[channel]
                step = ((np.int32(steps[channel]) + zero) & np.int32(255)) - zero
                numbers[channel] = np.float32(step) * scales[channel]


@_compiled
def gather(
    planes: Any, offsets: np.ndarray, rows: np.ndarray, starts: np.ndarray, out: np.ndarray
) -> None:
    """Put the numbers of some cells together and lay them where they belong.

    Args:
        planes: uint8 arrays, one a byte of the stored number, the lowest first.
        offsets: int64 (cells + 1,), of every plane.
        rows: int64 (images,), which cells.
        starts: int64 (images,), where each cell's numbers begin in `out`.
        out: unsigned integers of the stored number's size.
    """
    for i in range(rows.size):
        start, stop = offsets[rows[i]], offsets[rows[i] + 1]
        _join(planes, start, stop, out[starts[i] : starts[i] + stop - start])


@_compiled
def find_misfit(masks: np.ndarray, sizes: np.ndarray, num_values: int) -> int:
    """Return the first mask that has not as many bits as there are values, or one beyond the map.

    Args:
        masks: uint8 (masks, bytes), whole words.
        sizes: int64 (masks,), how many values each has.
        num_values: of a map.
    """
    for i in range(sizes.size):
        words = masks[i].view(np.uint64)
        num_bits = _U(0)
        for word in words:
            num_bits += _num_bits(word)
        if num_bits != _U(sizes[i]) or _has_bits_beyond(words, num_values):
            return i
    return GOOD


@_compiled
def _num_bits(word: Any) -> Any:
    """Count the bits of 64 that are set, pairs first (H. S. Warren, Hacker's Delight, 5-1)."""
    word -= (word >> _U(1)) & _U(0x5555555555555555)
    word = (word & _U(0x3333333333333333)) + ((word >> _U(2)) & _U(0x3333333333333333))
    word = (word + (word >> _U(4))) & _U(0x0F0F0F0F0F0F0F0F)
    return (word * _U(0x0101010101010101)) >> _U(56)


@_compiled
def _join(planes: Any, start: int, stop: int, bits: np.ndarray) -> None:
    """Put the bytes of numbers together: of one, two or four planes, each in one go."""
    number = bits.dtype.type
    first = planes[0][start:stop]
    if len(planes) == 1:
        for i in range(first.size):
            bits[i] = first[i]
    elif len(planes) == 2:
        second = planes[1][start:stop]
        for i in range(first.size):
            bits[i] = number(first[i]) | (number(second[i]) << 8)
    else:
        second, third, fourth = planes[1][start:stop], planes[2][start:stop], planes[3][start:stop]
        for i in range(first.size):
            low, high = number(first[i]) | (number(second[i]) << 8), number(third[i])
            bits[i] = low | (high << 16) | (number(fourth[i]) << 24)


@_compiled
def _half_to_single(bits: np.ndarray) -> None:
    """Turn finite float16 bits, one in each 32, into float32 bits, subnormal numbers included.

    No operand is a subnormal float32: threads of TensorFlow's, and those that they start, take
    such for zero.
    """
    singles = bits.view(np.float32)
    for i in range(bits.size):
        half = np.uint32(bits[i])
        sign, rest = (half & np.uint32(0x8000)) << np.uint32(16), half & np.uint32(0x7FFF)
        normal = (rest << np.uint32(13)) + np.uint32((127 - 15) << 23)  # the exponents' two biases
        singles[i] = np.float32(np.int32(rest)) * np.float32(2.0**-24)  # the value of a subnormal
        bits[i] = (normal if rest >= np.uint32(0x400) else bits[i]) | sign


@_compiled
def _has_bits_beyond(words: np.ndarray, num_values: int) -> bool:
    """Tell whether a mask has another length than its map, or names a position that is none."""
    if words.size != (num_values + 63) // 64:
        return True
    used = num_values % 64
    return used != 0 and (words[-1] >> _U(used)) != 0


@_compiled
def _scatter_pixel(words: np.ndarray, values: np.ndarray, image: np.ndarray) -> bool:
    """Do the same for a map of one pixel, whose channels lie as the mask has them."""
    used, num_values = _U(0), _U(values.size)
    for i in range(words.size):
        word, base = words[i], _U(64 * i)
        while word:
            if used >= num_values:
                return False
            image[base + _U(trailing_zeros(word))] = values[used]  # type: ignore[call-arg]
            word &= word - _U(1)
            used += _U(1)
    return used == num_values


@_compiled
def _scatter(words: np.ndarray, values: np.ndarray, num_channels: int, image: np.ndarray) -> bool:
    """Write the values of a (channels, pixels) mask into (pixels, channels); tell if they fit."""
    one, channels, pixels = _U(1), _U(num_channels), _U(image.size // num_channels)
    num_values = _U(values.size)
    if pixels == one:
        return _scatter_pixel(words, values, image)
    used, channel, pixel = _U(0), _U(0), _U(0)  # the word's first bit
    for i in range(words.size):
        word = words[i]
        at, base = channel, pixel
        while word:
            position = base + _U(trailing_zeros(word))  # type: ignore[call-arg]
            word &= word - one
            while position >= pixels:
                position -= pixels
                base -= pixels
                at += one
            if used >= num_values:
                return False
            image[position * channels + at] = values[used]
            used += one
        pixel += _U(64)
        while pixel >= pixels:
            pixel -= pixels
            channel += one
    return used == num_values


@_compiled
def to_half(values: np.ndarray, out: np.ndarray) -> bool:
    """Round float32 to float16, to the nearest, ties to even; tell if one became infinite.

    What becomes zero, of either sign, becomes +0, so that a mask leaves it out: hard-swish gives
    -0.0 for all activations up to -3.

    Args:
        values: float32 bits as uint32 (numbers,), finite.
        out: uint16 (numbers,), float16 bits.
    """
    is_beyond = False
    for i in range(values.size):
        bits = values[i]
        size = bits & np.uint32(0x7FFFFFFF)
        # Normal halves: the exponents' biases, 127 and 15; then half a unit, less for even.
        normal = (size + np.uint32(0xC8000FFF) + ((size >> np.uint32(13)) & np.uint32(1))) >> (
            np.uint32(13)
        )
        half = normal | ((bits >> np.uint32(16)) & np.uint32(0x8000))
        out[i] = half if size > _NEARER_TO_0 else np.uint32(0)
        is_beyond |= size >= np.uint32(0x477FF000)  # 65,520, halfway to 2^16
    for i in range(values.size):
        size = values[i] & np.uint32(0x7FFFFFFF)
        if _NEARER_TO_0 < size < np.uint32(0x38800000):  # 2^-14: below lie the subnormal halves
            out[i] = _subnormal(size) | ((values[i] >> np.uint32(16)) & np.uint32(0x8000))
    return is_beyond


@_compiled
def _subnormal(size: int) -> int:
    """Round a float32 from 2^-25 to 2^-14, given as bits without sign, to a multiple of 2^-24."""
    exponent = size >> np.uint32(23)
    mantissa = (size & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    shift = np.uint32(126) - exponent  # 14 to 24 bits are lost
    kept = mantissa >> shift
    lost = mantissa & ((np.uint32(1) << shift) - np.uint32(1))
    half = np.uint32(1) << (shift - np.uint32(1))
    if lost > half or (lost == half and (kept & np.uint32(1)) != 0):
        kept += np.uint32(1)
    return kept


@_compiled
def pack(maps: np.ndarray, masks: np.ndarray, values: np.ndarray, sizes: np.ndarray) -> int:
    """Keep what is not zero, channel by channel, and mark where it was.

    Args:
        maps: unsigned integers (images, pixels, channels).
        masks: uint64 (images, words), zeros; a bit a position of (channels, pixels) is set.
        values: of the maps' type, with room for all of them.
        sizes: int64 (images,), how many values each image has.

    Returns:
        How many values there are.
    """
    num_pixels, num_channels = maps.shape[1], maps.shape[2]
    block = np.empty((_BLOCK, num_pixels), maps.dtype)
    used = _U(0)
    for i in range(maps.shape[0]):
        before, position = used, _U(0)
        for first in range(0, num_channels, _BLOCK):
            count = min(_BLOCK, num_channels - first)
            for pixel in range(num_pixels):  # turn a few channels at a time, within the cache
                for channel in range(count):
                    block[channel, pixel] = maps[i, pixel, first + channel]
            for channel in range(count):
                for pixel in range(num_pixels):
                    value = block[channel, pixel]
                    is_kept = _U(value != 0)
                    values[used] = value
                    used += is_kept
                    masks[i, position >> _U(6)] |= is_kept << (position & _U(63))
                    position += _U(1)
        sizes[i] = used - before
    return used

"""Which JPEG quality an original was stored at, read from its quantisation tables (figure 3.1).

A JPEG does not say its quality factor, but it holds the tables that the factor scaled. Those of
libjpeg are the tables of ITU-T T.81, Annex K, times a scale (thesis, eq. 2.4), and all hundred
differ, so the factor is exact wherever libjpeg or an encoder with its scale wrote the file.

Cameras and Photoshop have tables of their own: there it is the nearest factor. Two steps are as far
apart as the squared logarithm of their ratio, and each weighs as much as Annex K is fine there: its
tables are thresholds of visibility. For the nine Photoshop tables that Pillow ships this gives 40
to 99, at most 7 from the factor with the same PSNR on four photographs of scikit-image. A plain sum
of absolute differences hears the high frequencies alone: 94 for "low" and for "maximum".
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import JpegImagePlugin

from pipelines.images.jpeg import quality_table

MAX_QF = 100


def estimate_quality(data: bytes) -> int | None:
    """Estimate the quality factor of a JPEG without decoding it.

    The first component is held against the luminance scale; tables of their own for the others,
    where there are, against the chrominance scale, and the distances are summed. The scale ends at
    255 as in baseline files. The 16-bit tables that libjpeg writes below quality 25 where it is not
    held to baseline are nearest to the baseline tables of their own factor.

    Args:
        data: the whole file, or at least all that precedes its first scan; nothing is trusted. A
            file that is cut short or damaged behind that point still has its quality.

    Returns:
        1..100, or None for what is no JPEG or has no whole, valid tables.
    """
    tables = _read_tables(data)
    if tables is None:
        return None
    distances = np.zeros(MAX_QF)
    for number, table in enumerate(tables):
        log_scale, weights = _ijg_scale(is_chroma=number > 0)
        distances += np.square(log_scale - np.log(table)) @ weights
    return int(distances.argmin()) + 1


def qf_histogram(qualities: Iterable[int | None]) -> dict[str, Any]:
    """Count originals by their quality factor (thesis, figure 3.1, in bins of one factor).

    Args:
        qualities: one for each image, as `estimate_quality` gives them; may be a generator.

    Returns:
        "num_images", all of them; "num_unknown", those without a factor, mostly images that are no
        JPEG; "num_by_qf", the count of each factor that occurs, ascending. The factors are text,
        as in JSON, so that the histogram is the same after it was written and read.

    Raises:
        ValueError: a quality is neither None nor a whole number from 1 to 100.
    """
    counts = Counter(qualities)
    num_images, num_unknown = counts.total(), counts.pop(None, 0)
    num_by_qf = {qf: num for qf, num in counts.items() if qf is not None}
    outside = [qf for qf in num_by_qf if qf not in range(1, MAX_QF + 1)]
    if outside:
        raise ValueError(f"quality factor {outside[0]!r}, expected 1 to {MAX_QF} or None")
    return {
        "num_images": num_images,
        "num_unknown": num_unknown,
        "num_by_qf": {str(qf): num_by_qf[qf] for qf in sorted(num_by_qf)},
    }


@functools.cache
def _ijg_scale(is_chroma: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give what a table is compared with.

    Returns:
        float64, (quality factor - 1, step), logarithms of the tables of libjpeg; and float64,
        (step,), the weight of each step: 1 / Annex K, whose tables are those of quality 50.
    """
    tables = [quality_table(qf, is_chroma).ravel() for qf in range(1, MAX_QF + 1)]
    return np.log(np.array(tables)), 1 / tables[50 - 1]


def _read_tables(data: bytes) -> list[np.ndarray] | None:
    """Read the tables that the components use, that of the first component first.

    Returns:
        Each int64 (64,), in natural order as Pillow has given it since version 8.3, steps of
        1..65535; None where there is no JPEG whose header is whole.
    """
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    # What is no JPEG is a SyntaxError; of hostile bytes Pillow raises all sorts.
    except Exception:
        return None
    # A component names its table last: (id, vertical and horizontal sampling, table).
    numbers = list(dict.fromkeys(component[3] for component in image.layer))
    has_scan = bool(image.tile)
    if not has_scan or not numbers or not set(numbers) <= image.quantization.keys():
        return None
    tables = [np.array(image.quantization[number], dtype=np.int64) for number in numbers]
    # T.81 has no step of 0.
    return tables if all(table.min() > 0 for table in tables) else None

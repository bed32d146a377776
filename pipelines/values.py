"""The kinds of values that a setting may have, read from flags and from TOML alike."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _split_commas(value: object) -> object:
    """Turn "10,20" or ["10", "20,30"], as flags give them, into a flat list."""
    parts = value if isinstance(value, list | tuple) else [value]
    flat: list[object] = []
    for part in parts:
        flat.extend(
            (p.strip() for p in part.split(",") if p.strip()) if isinstance(part, str) else [part]
        )
    return tuple(flat)


def _sorted_qualities(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("empty or repeated")
    return tuple(sorted(values))


def _sorted_once(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise ValueError("repeated")
    return tuple(sorted(values))


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("empty or repeated")
    return values


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _to_bytes(value: object) -> object:
    """Turn "128MB" into bytes; a bare number is bytes already."""
    match = (
        re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", value) if isinstance(value, str) else None
    )
    return round(float(match[1]) * _UNITS[match[2]]) if match else _no_bool(value)


def _plain_name(value: str) -> str:
    is_path = value in {".", "..", "latest.json"} or "/" in value or "\\" in value
    if value and (is_path or value != value.strip() or not value.isprintable()):
        raise ValueError("not a plain name")
    return value


def _to_text(value: object) -> object:
    """Turn a number of TOML into text; a number of epochs is text already."""
    return str(_no_bool(value)) if isinstance(value, int) else value


def _as_short(value: str) -> str:
    """Spell a number of steps, or of epochs, the one way in which runs are compared."""
    number, word, _ = value.partition("epoch")
    short = format(Decimal(number.strip()).normalize(), "f")
    return f"{short}epochs" if word else short


def _to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _no_auto(value: object) -> object:
    """Turn "auto" into None, and the digits of a flag into a number."""
    if value == "auto":
        return None
    return _no_bool(value)


Quality = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=100)]
Qualities = Annotated[
    tuple[Quality, ...], BeforeValidator(_split_commas), AfterValidator(_sorted_qualities)
]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Branches = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_each_once)]
Counts = Annotated[
    tuple[Annotated[int, BeforeValidator(_no_bool), Field(ge=1)], ...],
    BeforeValidator(_split_commas),
    AfterValidator(_sorted_once),
]
RunName = Annotated[str, AfterValidator(_plain_name)]
SizeBytes = Annotated[int, BeforeValidator(_to_bytes), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
# NumPy's and Keras's global seeds are 32 bits.
Seed = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**32)]
Positive = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
PositiveFloat = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
Workers = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_no_auto)]
# None is "auto".
Batch = Workers
Devices = Annotated[str, Field(pattern=r"^(auto|cpu|gpu(:\d+(,\d+)*)?)$")]
TrainDevices = Annotated[str, Field(pattern=r"^(auto|cpu(:[1-9]\d?)?|gpu(:\d+(,\d+)*)?)$")]
# "2000" are steps, "0.5epochs" half an epoch's.
Steps = Annotated[
    str,
    BeforeValidator(_to_text),
    Field(pattern=r"^(\d{1,12}|(\d{1,6}(\.\d{1,6})?|\.\d{1,6}) ?epochs?)$"),
    AfterValidator(_as_short),
]
Sweeps = Annotated[
    tuple[Annotated[str, Field(pattern=r"^\w+=[^=]+$")], ...], BeforeValidator(_to_tuple)
]
MemoryBytes = Annotated[int, BeforeValidator(_to_bytes), Field(ge=0)]
Part = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)]
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)]
Verbosity = Annotated[int, BeforeValidator(_no_bool), Field(ge=-1, le=1)]

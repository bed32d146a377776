"""Read torch's legacy state-dict files (torch.save before 1.6, pre-zip) without torch.

Such a file holds, one behind the other (torch/serialization.py, `_legacy_save`):

1. three pickles: a magic number, the protocol 1001, a dict that tells the byte order;
2. the pickled state dict, each tensor a call of `torch._utils._rebuild_tensor_v2` on a storage,
   and each storage a persistent id ("storage", type, key, device, number of elements, view);
3. a pickled list of the storage keys;
4. for each of these keys an int64 count of elements and the elements, little-endian.

A pickle is a program, and no file is trusted: only the opcodes and the names that a state dict
needs are admitted, what they build is plain tuples, and every size is checked against the file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pipelines.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_FILE_BYTES = 1 << 30  # bounds the memory; EfficientNet-Lite0's file has 19 MB

STORAGE_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}

# What `pickle` protocol 2, the one torch writes, needs for numbers, names, containers and calls.
# fmt: off
ADMITTED_OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})
# fmt: on


class _Storage(NamedTuple):
    """A run of elements, named in the state dict and stored behind it; `dtype` is NumPy's name."""

    key: str
    dtype: str
    num_elements: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements. Unchecked until `_to_array`."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a legacy torch state-dict file.

    Args:
        path: The file; nothing in it is executed.

    Returns:
        Name to array in the file's order; float32 or int64, C-contiguous, axes as torch has them
        (convolution kernels: out, in, height, width). A copy: nothing holds on to the file.

    Raises:
        WeightsError: the file cannot be read, is cut short, is no legacy state dict, asks for a
            name or an element type that is not admitted, or has a tensor outside its storage.
    """
    reader = _Reader(path)
    reader.read_header()
    start = reader.position
    tensors, declared = reader.read_pickle("state dict")
    if not isinstance(tensors, dict):
        reader.fail(start, f"found a {type(tensors).__name__}, expected a state dict")
    storages = reader.read_storages(declared)
    return {
        _checked_name(reader, start, name): _to_array(reader, start, name, tensor, storages)
        for name, tensor in tensors.items()
    }


class _Reader:
    """The bytes of one file and how far they have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        try:
            size_bytes = path.stat().st_size
            if size_bytes > MAX_FILE_BYTES:
                self.fail(0, f"found {size_bytes} bytes, expected at most {MAX_FILE_BYTES}")
            self.data = path.read_bytes()
        except OSError as error:
            raise WeightsError(
                f"{path}: cannot read the weights ({error.strerror or error}); "
                "check the path and its permissions, or install the weights again"
            ) from error

    def fail(self, offset: int, what: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error that names file and place."""
        raise WeightsError(
            f"{self.path}: at byte {offset}: {what}; install or download the weights again"
        ) from cause

    def read_header(self) -> None:
        """Check magic number, protocol and byte order."""
        if self.data[:4] == b"PK\x03\x04":
            self.fail(
                0,
                "found a zip archive (torch 1.6 and later), expected a legacy state dict: "
                "save it in torch with _use_new_zipfile_serialization=False",
            )
        for what, expected in (("magic number", MAGIC), ("protocol", PROTOCOL)):
            start = self.position
            found, _ = self.read_pickle(what)
            if type(found) is not int or found != expected:
                self.fail(start, f"found another {what} than {expected} of torch's legacy format")
        start = self.position
        sizes, _ = self.read_pickle("byte order")
        if not isinstance(sizes, dict) or sizes.get("little_endian") is not True:
            self.fail(start, "found no mark of little-endian storages, the only ones supported")

    def read_pickle(self, what: str) -> tuple[Any, dict[str, _Storage]]:
        """Unpickle the next part; give it and the storages that it names."""
        start = self.position
        try:
            end = self._scan_pickle(start, what)
            unpickler = _Unpickler(self, start, self.data[start:end])
            value = unpickler.load()
        except WeightsError:
            raise
        except Exception as error:  # pickle's documentation: any exception may be raised
            self.fail(
                start,
                f"the {what} cannot be unpickled ({type(error).__name__}: {error}); "
                "the file is cut short, damaged or no legacy state dict",
                error,
            )
        self.position = end
        return value, unpickler.storages

    def _scan_pickle(self, start: int, what: str) -> int:
        """Find the end of a pickle, and refuse opcodes that a state dict does not need."""
        stream = io.BytesIO(self.data)
        stream.seek(start)
        for opcode, argument, position in pickletools.genops(stream):
            offset = start if position is None else position
            if opcode.name not in ADMITTED_OPCODES:
                self.fail(offset, f"opcode {opcode.name} is not admitted in the {what}")
            # The memo is an array as long as its largest index: one opcode could fill the memory.
            # A real one counts the opcodes before it, and so is less than the bytes before it.
            if opcode.name == "LONG_BINPUT" and (argument is None or argument > offset - start):
                self.fail(offset, f"memo index {argument} is out of bounds in the {what}")
        return stream.tell()

    def read_storages(self, declared: dict[str, _Storage]) -> dict[str, np.ndarray]:
        """Read the elements of every storage that the state dict names, each as a flat array."""
        start = self.position
        keys, _ = self.read_pickle("list of storage keys")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            self.fail(start, "found no list of storage keys")
        if len(keys) != len(set(keys)) or set(keys) != set(declared):
            self.fail(
                start,
                f"found {len(keys)} storage keys, expected exactly the {len(declared)} "
                "that the state dict names",
            )
        storages = {key: self._read_storage(declared[key]) for key in keys}
        if self.position != len(self.data):
            self.fail(
                self.position,
                f"found {len(self.data) - self.position} bytes behind the last storage, "
                "expected the end of the file",
            )
        return storages

    def _read_storage(self, storage: _Storage) -> np.ndarray:
        start, dtype = self.position, np.dtype(storage.dtype)
        first = start + struct.calcsize("<q")
        if first > len(self.data):
            self.fail(start, f"the file ends in front of storage {storage.key!r}")
        (count,) = struct.unpack_from("<q", self.data, start)
        if count != storage.num_elements:
            self.fail(
                start,
                f"storage {storage.key!r} has {count} elements, "
                f"expected the {storage.num_elements} that the state dict names",
            )
        self.position = first + count * dtype.itemsize
        if self.position > len(self.data):
            self.fail(
                start,
                f"the file ends {self.position - len(self.data)} bytes "
                f"before the end of storage {storage.key!r}",
            )
        return np.frombuffer(self.data, dtype, count, first)


class _Unpickler(pickle.Unpickler):
    """Build tuples out of the few names that a state dict needs, and refuse all others."""

    def __init__(self, reader: _Reader, start: int, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._reader = reader
        self._start = start
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Give a stand-in for an admitted global; nothing is ever imported."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: a pickle may set attributes on what it is given.
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            )
        if module == "torch" and name in STORAGE_DTYPES:
            return name
        if module == "torch" and name.endswith("Storage"):
            known = ", ".join(f"torch.{known}" for known in STORAGE_DTYPES)
            what = f"found elements of type torch.{name}, expected one of {known}"
        else:
            what = (
                f"the pickle asks for {module}.{name}, which no state dict needs: "
                "it was refused and nothing was run"
            )
        return self._reader.fail(self._start, what)

    def persistent_load(self, pid: Any) -> _Storage:
        """Note a storage that the state dict refers to; its elements follow later."""
        match pid:
            case ("storage", str(type_name), str(key), _, int(num_elements), None) if (
                type_name in STORAGE_DTYPES and num_elements >= 0
            ):
                storage = _Storage(key, STORAGE_DTYPES[type_name], num_elements)
            case _:
                self._reader.fail(
                    self._start,
                    "found a persistent id of another form than "
                    "('storage', type, key, device, number of elements, None)",
                )
        if self.storages.setdefault(key, storage) != storage:
            self._reader.fail(self._start, f"storage {key!r} is named with two types or sizes")
        return storage


def _checked_name(reader: _Reader, start: int, name: Any) -> str:
    if not isinstance(name, str):
        reader.fail(start, f"found a {type(name).__name__} as the name of a tensor")
    return name


def _to_array(
    reader: _Reader, start: int, name: str, tensor: Any, storages: dict[str, np.ndarray]
) -> np.ndarray:
    """Copy one strided view out of its storage, after proving that it lies inside."""
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage):
        reader.fail(start, f"{name!r} is no tensor")
    elements = storages[tensor.storage.key]
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    if not (
        _are_counts((offset,), minimum=0)
        and _are_counts(shape, minimum=1)
        and _are_counts(strides, minimum=0)
        and len(shape) == len(strides)
    ):
        reader.fail(start, f"{name!r} has no valid offset, shape and strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # The product refuses stride 0 as well, with which few bytes could ask for any memory.
    if last >= elements.size or math.prod(shape) > elements.size:
        reader.fail(
            start,
            f"{name!r} has {math.prod(shape)} elements up to index {last}, "
            f"its storage {elements.size}",
        )
    # Strides of axes with one element carry no meaning and may be of any size.
    strides_bytes = [
        stride * elements.itemsize if size > 1 else 0
        for size, stride in zip(shape, strides, strict=True)
    ]
    view = np.lib.stride_tricks.as_strided(elements[offset:], shape, strides_bytes, writeable=False)
    return np.array(view, order="C")


def _are_counts(values: Any, minimum: int) -> bool:
    """Tell whether these are a few whole numbers, none under the minimum."""
    return (
        isinstance(values, tuple)
        and len(values) <= 16  # far above any layer's axes, below NumPy's limit of 32
        and all(type(value) is int and value >= minimum for value in values)
    )

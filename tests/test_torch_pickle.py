"""The reader of legacy torch files; the files are written here, torch itself is not needed."""

import io
import pickle
import struct
import sys
from collections import OrderedDict
from dataclasses import dataclass
from types import ModuleType
from unittest import mock

import numpy as np
import pytest

from pipelines.errors import WeightsError
from pipelines.networks.torch_pickle import MAGIC, PROTOCOL, read_state_dict

HEADER = (MAGIC, PROTOCOL, {"protocol_version": PROTOCOL, "little_endian": True})


def _as_torch_global(name, module):
    """Make a class that pickles as torch's global of that name."""
    return type(name, (), {"__module__": module, "__qualname__": name})


FloatStorage = _as_torch_global("FloatStorage", "torch")
LongStorage = _as_torch_global("LongStorage", "torch")
HalfStorage = _as_torch_global("HalfStorage", "torch")
Rebuild = _as_torch_global("_rebuild_tensor_v2", "torch._utils")


@dataclass(eq=False)
class Storage:
    key: str
    elements: np.ndarray
    kind: type = FloatStorage
    declared: int | None = None

    @property
    def persistent_id(self):
        count = self.elements.size if self.declared is None else self.declared
        return ("storage", self.kind, self.key, "cpu", count, None)


@dataclass(eq=False)
class Tensor:
    storage: Storage
    offset: object
    shape: object
    strides: object

    def __reduce__(self):
        return Rebuild, (self.storage, self.offset, self.shape, self.strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.persistent_id if isinstance(obj, Storage) else None


def _pickle(value):
    """Pickle as torch does: protocol 2, storages as persistent ids, torch's names as globals."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in (FloatStorage, LongStorage, HalfStorage):
        setattr(torch, kind.__name__, kind)
    utils._rebuild_tensor_v2 = Rebuild
    buffer = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def _legacy_bytes(state, storages, header=HEADER):
    parts = [_pickle(value) for value in (*header, state)]
    parts.append(_pickle([storage.key for storage in storages]))
    for storage in storages:
        parts.append(struct.pack("<q", storage.elements.size) + storage.elements.tobytes())
    return b"".join(parts)


def _write(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return path


def _one_tensor_bytes(num_elements=6, offset=0, shape=(6,), strides=(1,)):
    storage = Storage("100", np.arange(num_elements, dtype="<f4"))
    return _legacy_bytes({"a": Tensor(storage, offset, shape, strides)}, [storage])


def test_read_state_dict_two_dtypes_gives_arrays_in_order(tmp_path):
    weight = Storage("7", np.array([1.5, -2.0, 3.25], "<f4"))
    count = Storage("3", np.array([2**40], "<i8"), LongStorage)
    state = OrderedDict(
        [("bn.weight", Tensor(weight, 0, (3,), (1,))), ("bn.count", Tensor(count, 0, (), ()))]
    )
    # torch keeps a module's version numbers as an attribute of the dict.
    state._metadata = OrderedDict([("bn", {"version": 1})])

    arrays = read_state_dict(_write(tmp_path, _legacy_bytes(state, [count, weight])))

    assert list(arrays) == ["bn.weight", "bn.count"]
    assert arrays["bn.weight"].dtype == np.float32
    np.testing.assert_array_equal(arrays["bn.weight"], [1.5, -2.0, 3.25])
    assert arrays["bn.count"].shape == ()
    assert arrays["bn.count"].dtype == np.int64
    assert arrays["bn.count"] == 2**40


def test_read_state_dict_permuted_strides_gives_logical_order(tmp_path):
    stored = np.arange(2 * 3 * 4, dtype="<f4").reshape(2, 3, 4)
    storage = Storage("1", np.concatenate([np.full(5, -1, "<f4"), stored.ravel()]))
    tensor = Tensor(storage, 5, (4, 2, 3), (1, 12, 4))

    array = read_state_dict(_write(tmp_path, _legacy_bytes({"w": tensor}, [storage])))["w"]

    np.testing.assert_array_equal(array, stored.transpose(2, 0, 1))
    assert array.flags.c_contiguous
    assert array.flags.owndata


def test_read_state_dict_shared_storage_gives_two_views(tmp_path):
    storage = Storage("1", np.arange(6, dtype="<f4"))
    state = {"a": Tensor(storage, 0, (2,), (1,)), "b": Tensor(storage, 2, (2,), (2,))}

    arrays = read_state_dict(_write(tmp_path, _legacy_bytes(state, [storage])))

    np.testing.assert_array_equal(arrays["a"], [0, 1])
    np.testing.assert_array_equal(arrays["b"], [2, 4])


def test_read_state_dict_huge_stride_of_single_element_axis_is_ignored(tmp_path):
    content = _one_tensor_bytes(shape=(1, 6), strides=(2**70, 1))

    assert read_state_dict(_write(tmp_path, content))["a"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_read_state_dict_cut_at_any_byte_raises(tmp_path):
    content = _one_tensor_bytes()

    for num_bytes in range(len(content)):
        with pytest.raises(WeightsError, match=r"weights\.pth: at byte \d+: "):
            read_state_dict(_write(tmp_path, content[:num_bytes]))


def test_read_state_dict_any_damaged_byte_raises_or_gives_sound_arrays(tmp_path):
    content = _one_tensor_bytes()
    num_read = 0

    for position in range(len(content)):
        for mask in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= mask
            try:
                arrays = read_state_dict(_write(tmp_path, bytes(damaged)))
            except WeightsError:
                continue
            num_read += 1
            assert all(array.size <= 6 for array in arrays.values())

    # Only the 24 bytes of the elements, and few others such as a name, have no redundancy.
    assert 48 <= num_read < len(content)


@pytest.mark.parametrize(
    ("num_missing", "message"),
    [
        (3, "the file ends 3 bytes before the end of storage '100'"),
        (24 + 8, "the file ends in front of storage '100'"),
        (24 + 8 + 1, "the list of storage keys cannot be unpickled"),
    ],
)
def test_read_state_dict_cut_names_the_part(tmp_path, num_missing, message):
    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, _one_tensor_bytes()[:-num_missing]))


def test_read_state_dict_bytes_behind_the_end_raises(tmp_path):
    with pytest.raises(WeightsError, match="found 2 bytes behind the last storage"):
        read_state_dict(_write(tmp_path, _one_tensor_bytes() + b"xx"))


class _RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("part", range(5))
def test_read_state_dict_malicious_global_is_refused_and_not_run(tmp_path, part):
    witness = tmp_path / "witness"
    malicious = _pickle(_RunsACommand(f"touch {witness}"))
    parts = [_pickle(value) for value in (*HEADER, {}, [])]
    parts[part] = malicious

    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system, which no state dict"):
        read_state_dict(_write(tmp_path, b"".join(parts)))

    assert not witness.exists()
    pickle.loads(malicious)  # the same bytes do harm where nothing guards
    assert witness.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cbuiltins\neval\n.", r"asks for builtins\.eval"),
        (b"ctorch._utils\n_rebuild_parameter\n.", r"asks for torch\._utils\._rebuild_parameter"),
        (b"\x8c\x02os\x8c\x06system\x93.", "opcode SHORT_BINUNICODE is not admitted"),
        (b"(d.", "opcode DICT is not admitted in the state dict"),
        (b"}r\xff\xff\xff\x7f.", "memo index 2147483647 is out of bounds in the state dict"),
        (b"ctorch\nFloatStorage\n)R.", "state dict cannot be unpickled .TypeError"),
    ],
)
def test_read_state_dict_foreign_program_is_refused(tmp_path, program, message):
    content = b"".join(map(_pickle, HEADER)) + b"\x80\x02" + program

    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, content))


def test_read_state_dict_half_storage_names_the_supported_types(tmp_path):
    storage = Storage("1", np.zeros(2, "<f2"), HalfStorage)
    content = _legacy_bytes({"a": Tensor(storage, 0, (2,), (1,))}, [storage])

    with pytest.raises(WeightsError, match=r"torch\.HalfStorage, expected one of torch\.Float"):
        read_state_dict(_write(tmp_path, content))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"shape": (7,)}, "'a' has 7 elements up to index 6, its storage 6"),
        ({"offset": 1}, "'a' has 6 elements up to index 6, its storage 6"),
        ({"strides": (2,)}, "up to index 10, its storage 6"),
        ({"shape": (2**40,), "strides": (0,)}, "has 1099511627776 elements up to index 0"),
        ({"shape": (3, 2)}, "'a' has no valid offset, shape and strides"),
        ({"shape": (-1,)}, "'a' has no valid offset"),
        ({"strides": (-1,)}, "'a' has no valid offset"),
        ({"offset": -1}, "'a' has no valid offset"),
        ({"offset": "0"}, "'a' has no valid offset"),
        ({"shape": [6]}, "'a' has no valid offset"),
        ({"shape": (1,) * 70, "strides": (1,) * 70}, "'a' has no valid offset"),
    ],
)
def test_read_state_dict_view_outside_storage_raises(tmp_path, view, message):
    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, _one_tensor_bytes(**view)))


def test_read_state_dict_other_count_than_declared_raises(tmp_path):
    storage = Storage("1", np.zeros(4, "<f4"), declared=3)
    content = _legacy_bytes({"a": Tensor(storage, 0, (3,), (1,))}, [storage])

    with pytest.raises(WeightsError, match="storage '1' has 4 elements, expected the 3 that"):
        read_state_dict(_write(tmp_path, content))


def test_read_state_dict_storage_named_with_two_sizes_raises(tmp_path):
    storage, twin = Storage("1", np.zeros(4, "<f4")), Storage("1", np.zeros(5, "<f4"))
    state = {"a": Tensor(storage, 0, (4,), (1,)), "b": Tensor(twin, 0, (5,), (1,))}

    with pytest.raises(WeightsError, match="storage '1' is named with two types or sizes"):
        read_state_dict(_write(tmp_path, _legacy_bytes(state, [storage])))


@pytest.mark.parametrize("keys", [["100", "100"], ["200"], [], ["100", "200"]])
def test_read_state_dict_keys_unlike_the_storages_named_raises(tmp_path, keys):
    storages = [Storage(key, np.zeros(6, "<f4")) for key in keys]
    named = Storage("100", np.zeros(6, "<f4"))
    content = _legacy_bytes({"a": Tensor(named, 0, (6,), (1,))}, storages)

    with pytest.raises(WeightsError, match=f"found {len(keys)} storage keys, expected exactly"):
        read_state_dict(_write(tmp_path, content))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1, 2], "found a list, expected a state dict"),
        ({"a": 3}, "'a' is no tensor"),
        ({5: 3}, "found a int as the name of a tensor"),
    ],
)
def test_read_state_dict_other_object_raises(tmp_path, state, message):
    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, _legacy_bytes(state, [])))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((MAGIC + 1, PROTOCOL, HEADER[2]), "at byte 0: found another magic number"),
        ((MAGIC, PROTOCOL + 1, HEADER[2]), "at byte 15: found another protocol than 1001"),
        ((MAGIC, PROTOCOL, {"little_endian": False}), "found no mark of little-endian"),
    ],
)
def test_read_state_dict_other_header_raises(tmp_path, header, message):
    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, _legacy_bytes({}, [], header)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "found a zip archive .* expected a legacy state dict"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "the magic number cannot be unpickled"),
        (b"", "the magic number cannot be unpickled"),
    ],
)
def test_read_state_dict_foreign_file_raises(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        read_state_dict(_write(tmp_path, content))


def test_read_state_dict_missing_file_raises(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: cannot read the weights \(No such file"):
        read_state_dict(tmp_path / "none.pth")


def test_read_state_dict_too_large_file_raises_before_reading(tmp_path):
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse: takes no room on disk

    with pytest.raises(WeightsError, match="found 1073741825 bytes, expected at most 1073741824"):
        read_state_dict(path)

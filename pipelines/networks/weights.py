"""Load a Keras weights file into a network: weights only, checked before anything is touched.

Two HDF5 layouts are read. Keras 3 (`*.weights.h5`): a group a layer, keyed by class and count
(`layers/conv2d_3/vars/0`), so the order of creation decides, not the name. Legacy (`*.h5`, what
keras.applications downloads): a list of layer names, loaded in order. The layout is told from the
content. Nothing is unpickled and no model is deserialised.

Guaranteed on return: every weighted layer of the network (but perhaps the classifier) got arrays
of its own shapes, the file holds no layer that the network lacks, and where the file bears the
network's own layer names they stand in the network's order. Not guaranteed: two layers of equal
shapes that a file without those names holds in swapped places.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from pipelines.errors import WeightsError
from pipelines.networks import graph as graphs

_LEGACY_NAMES = "layer_names"
_LEGACY_OWN = "top_level_model_weights"


@dataclass(frozen=True)
class _Weighted:
    """A layer with weights: its name, whether Keras made that up, its Keras 3 key, its shapes."""

    name: str
    is_automatic: bool
    key: str
    shapes: tuple[tuple[int, ...], ...]
    is_classifier: bool


@dataclass(frozen=True)
class _Stored:
    """A layer as the file has it; the name is None where the file keeps none."""

    name: str | None
    shapes: tuple[tuple[int, ...], ...]


def load(model: Any, path: str | Path) -> bool:
    """Load a weights file into a network, with or without its classifier.

    Args:
        model: built keras Functional model; its weights are replaced.
        path: Keras weights file in HDF5, either layout, any name.

    Returns:
        Whether the classifier (the last layer that has weights) was in the file; if not, it keeps
        the values it had.

    Raises:
        WeightsError: the file is missing, no HDF5, cut short or no Keras weights file, or it does
            not fit; in the last case the network is untouched. Where reading fails half way the
            network is not to be used.
        NodeError: the network has no classifier.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            legacy = _legacy_group(file)
            expected = _weighted_layers(model, nested=legacy is None)
            if legacy is not None:
                stored = _pair_in_order(expected, _read_legacy(path, legacy), path)
            else:
                stored = _pair_by_key(expected, _read_keyed(path, file), path)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read as a Keras weights file in HDF5 ({error}); "
            "give the path of a whole .weights.h5 or .h5 file"
        ) from error
    _check_order(path, expected, stored)
    has_classifier = stored[-1] is not None
    target = model if has_classifier else _without_classifier(model)
    suffix = ".weights.h5" if legacy is None else ".h5"
    try:
        with _named(path, suffix) as named:
            target.load_weights(str(named))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{path}: fits {model.name} by its shapes but Keras cannot load it ({reason}); "
            "save the weights again from this network"
        ) from error
    return has_classifier


def _weighted_layers(model: Any, *, nested: bool) -> list[_Weighted]:
    """List the layers with weights in Keras's order, the parts of nested models for `nested`.

    The legacy layout keeps a nested model's weights as one layer's, Keras 3 keeps them apart.
    """
    graph = graphs.analyse("", model)
    classifier = graph.operations[graph.classifier]
    return [
        _Weighted(
            name=layer.name,
            is_automatic=graphs.automatic_number(layer) is not None,
            key=key,
            shapes=tuple(tuple(weight.shape) for weight in _in_file_order(layer, nested)),
            is_classifier=layer is classifier,
        )
        for key, layer in _walk(model, "layers", nested)
        if layer.weights
    ]


def _walk(model: Any, prefix: str, nested: bool) -> Iterator[tuple[str, Any]]:
    """Yield Keras 3's key of each layer: its class, numbered from the second one on."""
    counts: dict[str, int] = {}
    for layer in model.layers:
        name = graphs.class_key(layer)
        count = counts.get(name, 0)
        counts[name] = count + 1
        key = f"{prefix}/{name}_{count}" if count else f"{prefix}/{name}"
        if nested and hasattr(layer, "layers"):
            yield from _walk(layer, f"{key}/layers", nested)
        else:
            yield key, layer


def _in_file_order(layer: Any, nested: bool) -> list[Any]:
    return layer.weights if nested else layer.trainable_weights + layer.non_trainable_weights


def _legacy_group(file: h5py.File) -> h5py.Group | None:
    """Find the group with the legacy layout, also inside a whole saved model; None for Keras 3."""
    if _has_names(file, _LEGACY_NAMES):
        return file
    if "model_weights" in file:
        return _group(file, "model_weights")
    return None


def _read_legacy(path: Path, group: h5py.Group) -> list[_Stored]:
    stored = []
    for name in _names(group, _LEGACY_NAMES):
        if name == _LEGACY_OWN:
            continue
        layer = _group(group, name)
        shapes = tuple(_shape(layer, weight) for weight in _names(layer, "weight_names"))
        if shapes:
            stored.append(_Stored(name, shapes))
    if not stored:
        raise WeightsError(f"{path}: holds no weights; give a Keras weights file")
    return stored


def _read_keyed(path: Path, file: h5py.File) -> dict[str, _Stored]:
    if "layers" not in file:
        raise WeightsError(
            f"{path}: is HDF5 but no Keras weights file (it has neither a group 'layers' nor "
            f"{_LEGACY_NAMES!r}); write one with model.save_weights"
        )
    stored: dict[str, _Stored] = {}
    _collect_keyed(_group(file, "layers"), "layers", stored)
    return stored


def _collect_keyed(group: h5py.Group, prefix: str, stored: dict[str, _Stored]) -> None:
    """Gather every layer below a `layers` group that has arrays, random generators aside."""
    for name in group:
        layer = _group(group, name)
        if "vars" in layer and len(layer["vars"]):
            values = _group(layer, "vars")
            shapes = tuple(_shape(values, str(index)) for index in range(len(values)))
            label = values.attrs.get("name")
            stored[f"{prefix}/{name}"] = _Stored(None if label is None else str(label), shapes)
        if "layers" in layer:
            _collect_keyed(_group(layer, "layers"), f"{prefix}/{name}/layers", stored)


def _pair_in_order(
    expected: list[_Weighted], stored: list[_Stored], path: Path
) -> list[_Stored | None]:
    """Match layers one by one, as Keras will load them; the last of the network may be missing."""
    for want, found in zip(expected, stored, strict=False):
        _check_shapes(path, want, found)
    if len(stored) > len(expected):
        raise _too_many(path, stored[len(expected)].name)
    without = expected[len(stored) :]
    if [layer for layer in without if not layer.is_classifier]:
        raise _missing(path, without[0])
    return [*stored, *[None] * len(without)]


def _pair_by_key(
    expected: list[_Weighted], stored: dict[str, _Stored], path: Path
) -> list[_Stored | None]:
    """Match layers by their Keras 3 keys; only the classifier's may be missing."""
    pairs = []
    for want in expected:
        found = stored.get(want.key)
        if found is None and not want.is_classifier:
            raise _missing(path, want)
        if found is not None:
            _check_shapes(path, want, found)
        pairs.append(found)
    extra = sorted(set(stored) - {layer.key for layer in expected})
    if extra:
        raise _too_many(path, stored[extra[0]].name or extra[0])
    return pairs


def _check_shapes(path: Path, want: _Weighted, found: _Stored) -> None:
    if want.shapes == found.shapes:
        return
    called = f" (there {found.name!r})" if found.name not in (None, want.name) else ""
    raise WeightsError(
        f"{path}: layer {want.name!r}{called} has shapes {_list(found.shapes)} in the file, "
        f"{_list(want.shapes)} in the network; give weights of the same network and classes"
    )


def _check_order(path: Path, expected: list[_Weighted], stored: list[_Stored | None]) -> None:
    """Refuse a file that bears the network's own names in another order: Keras goes by order."""
    pairs = [
        (want.name, found.name)
        for want, found in zip(expected, stored, strict=True)
        if found is not None and found.name is not None and not want.is_automatic
    ]
    if sorted(want for want, _ in pairs) != sorted(found for _, found in pairs):
        return  # other names altogether: nothing can be said
    for want, found in pairs:
        if want != found:
            raise WeightsError(
                f"{path}: has layer {found!r} in the place of {want!r}, and Keras loads by place; "
                "save the weights again from this network"
            )


def _missing(path: Path, layer: _Weighted) -> WeightsError:
    return WeightsError(
        f"{path}: has no layer {layer.name!r} (shapes {_list(layer.shapes)}), "
        "only the classifier may be left out; give weights of the same network"
    )


def _too_many(path: Path, name: str | None) -> WeightsError:
    return WeightsError(
        f"{path}: has a layer {name!r} that the network has not; give weights of the same network"
    )


def _without_classifier(model: Any) -> Any:
    """Build the network up to the first cut behind its last weights but the classifier's.

    Not up to the classifier itself: a dropout in between keeps a random state that a file saved
    without the top does not have.
    """
    import keras

    graph = graphs.analyse("", model)
    weighted = [
        at for at, operation in enumerate(graph.operations) if graphs.has_weights(operation)
    ]
    end = min(cut for cut in graph.cuts if cut >= weighted[-2])
    return keras.Model(model.inputs[0], graph.operations[end].output)


@contextmanager
def _named(path: Path, suffix: str) -> Iterator[Path]:
    """Give the file a name that Keras takes for its layout, by a link if it has none."""
    is_keyed = path.name.endswith(".weights.h5")
    if path.name.endswith(suffix) and is_keyed == (suffix == ".weights.h5"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"linked{suffix}"
        link.symlink_to(path.resolve())
        yield link


def _has_names(group: h5py.Group, attribute: str) -> bool:
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list of names; Keras splits one too long for an HDF5 header into numbered parts."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{len(parts)}"])
    return [n.decode() if isinstance(n, bytes) else str(n) for part in parts for n in part]


def _shape(group: h5py.Group, name: str) -> tuple[int, ...]:
    found = _child(group, name)
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise WeightsError(f"{group.file.filename}: {name!r} is no array stored in the file itself")
    return tuple(found.shape)


def _group(group: h5py.Group, name: str) -> h5py.Group:
    found = _child(group, name)
    if not isinstance(found, h5py.Group):
        raise WeightsError(f"{group.file.filename}: {name!r} is no group of a Keras weights file")
    return found


def _child(group: h5py.Group, name: str) -> Any:
    """Go down a path without following a link, which could lead out of the file."""
    at: Any = group
    for part in name.split("/"):
        if not isinstance(at, h5py.Group) or part not in at:
            raise WeightsError(f"{group.file.filename}: has no entry {name!r} though it names one")
        if not isinstance(at.get(part, getlink=True), h5py.HardLink):
            raise WeightsError(f"{group.file.filename}: {name!r} is a link, refused")
        at = at[part]
    return at


def _list(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " ".join(str(shape) for shape in shapes)

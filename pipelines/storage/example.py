"""The message of a TFRecord, tf.train.Example, as protobuf knows it without TensorFlow.

Fields and numbers as in tensorflow/core/example/example.proto and feature.proto, in a pool of their
own: TensorFlow registers the same names in the common one.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "bottleneck"
_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
_VALUES = {
    "BytesList": _Field.TYPE_BYTES,
    "FloatList": _Field.TYPE_FLOAT,
    "Int64List": _Field.TYPE_INT64,
}


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="bottleneck/example.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, kind in _VALUES.items():
        file.message_type.add(name=name).field.add(
            name="value", number=1, label=_Field.LABEL_REPEATED, type=kind
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(_KINDS, 1):
        _add_message(feature, name, number, kind, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    _add_message(entry, "value", 2, "Feature")
    _add_message(features, "feature", 1, "Features.FeatureEntry", label=_Field.LABEL_REPEATED)
    _add_message(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


def _add_message(
    message: Any, name: str, number: int, kind: str, label: Any = _Field.LABEL_OPTIONAL, **more: Any
) -> None:
    message.field.add(
        name=name,
        number=number,
        label=label,
        type=_Field.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.{kind}",
        **more,
    )


Example = _build()

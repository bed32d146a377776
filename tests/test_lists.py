"""Lists of labelled images: every format gives the same rows, every fault names its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.images.lists import read_class_list, read_elpv_labels, read_list, sort_names
from pipelines.images.splits import NO_SPLIT, TEST, TRAIN, VAL

ROWS = [("a/1.png", "cat", "train"), ("b/2.png", "dog", "validation"), ("ü 3.png", "cat", "test")]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table_text(separator: str) -> str:
    rows = [("path", "label", "split"), *ROWS]
    return "".join(separator.join(row) + "\n" for row in rows)


def jsonl_text() -> str:
    keys = ("path", "label", "split")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in ROWS)


FORMATS = {".csv": table_text(","), ".tsv": table_text("\t"), ".jsonl": jsonl_text()}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_read_list_every_format_gives_the_same_rows(suffix, mark, end, tmp_path):
    text = FORMATS[suffix].replace("\n", end).encode()
    listing = read_list(write(tmp_path / f"images{suffix}", mark + text))
    assert listing.ids.to_pylist() == ["a/1.png", "b/2.png", "ü 3.png"]
    assert [listing.names[label] for label in listing.labels] == ["cat", "dog", "cat"]
    assert listing.splits.tolist() == [TRAIN, VAL, TEST]


def test_read_list_further_columns_blank_lines_and_quotes_are_understood(tmp_path):
    text = 'label, Path ,note\ncat,"a,\n1.png",x\n\n dog ,b.png,\n'
    listing = read_list(write(tmp_path / "images.csv", text))
    assert listing.ids.to_pylist() == ["a,\n1.png", "b.png"]
    assert listing.names == ("cat", "dog")
    assert listing.splits.tolist() == [NO_SPLIT, NO_SPLIT]


def test_read_list_paths_become_posix_and_keep_parent_steps(tmp_path):
    text = "path,label\na\\1.png,x\n./b//2.png,y\n../c/3.png,x\n/abs/4.png,y\n"
    listing = read_list(write(tmp_path / "images.csv", text))
    assert listing.ids.to_pylist() == ["a/1.png", "b/2.png", "../c/3.png", "/abs/4.png"]


def test_read_list_more_rows_than_a_chunk_keeps_all_in_order(tmp_path):
    rows = [f"{row}.png,{row % 3}" for row in range(70_000)]
    listing = read_list(write(tmp_path / "images.csv", "path,label\n" + "\n".join(rows)))
    assert listing.ids.to_pylist() == [f"{row}.png" for row in range(70_000)]
    assert listing.labels.tolist() == [row % 3 for row in range(70_000)]
    assert max(map(len, listing.ids.chunks)) < 70_000


def test_read_list_json_integer_labels_become_text(tmp_path):
    text = '{"path": "a", "label": 3}\n\n{"path": "b", "label": "3", "split": null}\n'
    listing = read_list(write(tmp_path / "images.jsonl", text))
    assert listing.names == ("3",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"line 1: no column 'path'; .*found nothing"),
        ("path;label\na;b\n", r"line 1: no column 'path'; .*found 'path;label'"),
        ("path,class\na,b\n", r"line 1: no column 'label'; .*found 'path', 'class'"),
        ("path,label,path\na,b,c\n", r"line 1: column 'path' stands there twice"),
        ("path,label\n", r"no images listed"),
        ("path,label\na,x\nb, \n", r"line 3: the label is empty"),
        ("path,label\n,x\n", r"line 2: the path is empty"),
        ("path,label,split\na,x,dev\n", r"line 2: unknown split 'dev'; expected train, val, test"),
        ("path,label,split\na,x,train\nb,x,\n", r"line 3: no split, but line 2 has one"),
        (
            'path,label\n"a\n1",x\nb,y\nb,z\n',
            r"line 5: path 'b' is labelled 'z', but 'y' in line 4",
        ),
        ("path,label\na,x\n./a,x\n", r"line 3: path 'a' is listed already in line 2"),
        ("path,label\nb,x\na,x\nb,x\nb,x\na,x\n", r"line 4: path 'b' .* already in line 2"),
        ("path,label\na,b,c\n", r"line 2: 3 fields, expected 2"),
        ('path,label\na,x\n"b,y\n', r"line 3: not readable as a table"),
        (b"path,label\na,x\nb\xe9,y\n", r"line 3: not UTF-8"),
        ("path,label\na,b\n".encode("utf-16"), r"line 1: not UTF-8"),
    ],
)
def test_read_list_bad_csv_names_the_line(text, words, tmp_path):
    with pytest.raises(SourceError, match=r"images\.csv.*" + words):
        read_list(write(tmp_path / "images.csv", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n{]\n", r"line 2: not JSON"),
        ('["a", "b"]\n', r"line 1: found list, expected an object"),
        ('{"path": "a", "class": "x"}\n', r"line 1: no key 'label'; found 'path', 'class'"),
        ('{"path": 3, "label": "x"}\n', r"line 1: the path is 3, expected text$"),
        ('{"path": "a", "label": true}\n', r"the label is True, expected text or an integer"),
        ('{"path": "a", "label": null}\n', r"line 1: the label is empty"),
        ('{"path": "\\ud800", "label": "x"}\n', r"line 1: the path '\\ud800' is no valid Unicode"),
        (b'{"path": "a", "label": "x"}\n{"path": "\xff"}\n', r"line 2: not UTF-8"),
        ("[" * 100_000, r"line 1: not JSON"),
    ],
)
def test_read_list_bad_json_names_the_line(text, words, tmp_path):
    with pytest.raises(SourceError, match=r"images\.jsonl.*" + words):
        read_list(write(tmp_path / "images.jsonl", text))


def test_read_elpv_labels_probability_of_half_or_more_is_defective(tmp_path):
    text = (
        "images/a.png  0.0   mono\nimages/b.png  0.3333333333333333  poly\nimages/c.png 0.5 poly\n"
    )
    listing = read_elpv_labels(write(tmp_path / "labels.csv", text))
    labels = [listing.names[label] for label in listing.labels]
    assert labels == ["functional", "functional", "defective"]


def test_read_elpv_labels_bad_line_is_named(tmp_path):
    path = write(tmp_path / "labels.csv", "images/a.png 0.0 mono\nimages/b.png\n")
    with pytest.raises(SourceError, match=r"line 2: expected a path and a defect probability"):
        read_elpv_labels(path)


def test_read_class_list_keeps_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "classes.txt", "\ufeffzebra\r\n\r\n ant \r\nköter")
    assert read_class_list(path) == ("zebra", "ant", "köter")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\na\n", r"line 3: class 'a' stands already in line 1"),
        ("\n\n", "no class names found"),
    ],
)
def test_read_class_list_bad_file_is_refused(text, words, tmp_path):
    with pytest.raises(SourceError, match=words):
        read_class_list(write(tmp_path / "classes.txt", text))


def test_read_class_list_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"classes\.txt: cannot be read: No such file"):
        read_class_list(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["10", "9", "-1"], ("-1", "9", "10")), (["10", "9", "a"], ("10", "9", "a"))],
)
def test_sort_names_integers_sort_by_value_when_all_are(names, expected):
    assert sort_names(names) == expected

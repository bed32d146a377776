"""The results of eval as a table, Markdown, LaTeX and CSV."""

from __future__ import annotations

import copy
import csv
import re

import pytest

from bottleneck_cli.eval_tables import lines

ODD = r"run_a|b & c_d 50%#{x}~^$\<y>"
THESIS = "thesis protocol, on the images that the checkpoints were selected on"
FORMS = pytest.mark.parametrize("output", ["table", "markdown", "latex", "csv"])


def comparator(top1, difference=None, **changed):
    values = {
        "text": "what it is, in words",
        "run": None,
        "top1": top1,
        "top5": None,
        "ci95": [top1 - 0.05, top1 + 0.05],
        "difference": difference,
        "difference_ci95": None if difference is None else [difference - 0.03, difference + 0.03],
        "mcnemar_p": None if difference is None else 0.0321,
        "holm_p": None if difference is None else 0.0642,
        "headroom_share": None if difference is None else 0.255,
    }
    return {**values, **changed}


def make(**changed):
    values = {
        "run": "my|run_1",
        "node": "mixed_9",
        "blocks": ["mixed10", "FC"],
        "num_images": 1234,
        "split": "test",
        "protocol": "honest",
        "default_kind": "trained",
        "comparators": {
            "default": comparator(0.7512, top5=0.95),
            "topology": comparator(0.7723, 0.0211, mcnemar_p=0.00002, top5=0.96),
            ODD: comparator(0.7, -0.0512, headroom_share=None),
        },
        "oracle": {"top1": 0.85, "top5": 0.99, "control_top1": 0.8, "control_top5": None},
        "top_k": {
            "default": {"1": 0.7512, "3": 0.9, "5": 0.95},
            "topology": {"1": 0.7723, "3": 0.91, "5": 0.96},
        },
        "type_a": 60,
        "type_b": 34,
        "type_c": 1140,
        "leans_on": {"q010": 0.004, "q050": 0.0156},
        "folds": None,
        "verdict": "The topology is better. That is all.",
    }
    return {**copy.deepcopy(values), **changed}


def in_folds(num_seeds: int):
    values = make(folds={"num_folds": 5, "seeds": list(range(num_seeds))}, split="all")
    for found in values["comparators"].values():
        found["p"] = None if found["difference"] is None else 0.0444
    for key in ("type_a", "type_b", "type_c"):
        del values[key]
    return values


def split(line: str) -> list[str]:
    """Cut a line of the text table into its cells."""
    return re.split(r"  +", line)


def test_table_is_a_title_rows_notes_and_the_verdict():
    title, head, *rows = lines(make(), "table")
    assert title == (
        "run my|run_1: node mixed_9, blocks mixed10, FC, 1,234 images of test (honest protocol), "
        "default model trained"
    )
    names = ["", "top-1", "95% interval", "top-5", "difference", "95% interval", "p", "Holm p"]
    assert split(head) == [*names, "of headroom"]
    assert split(rows[0]) == [
        *("default", "75.12%", "70.12 to 80.12", "95.00%", "-", "-", "-", "-", "-"),
    ]
    assert split(rows[1]) == [
        *("topology", "77.23%", "72.23 to 82.23", "96.00%", "+2.11", "-0.89 to +5.11", "<0.0001"),
        *("0.064", "26%"),
    ]
    assert split(rows[2]) == [
        *(ODD, "70.00%", "65.00 to 75.00", "-", "-5.12", "-8.12 to -2.12", "0.032", "0.064", "-"),
    ]
    assert split(rows[3]) == ["oracle", "85.00%", "99.00%"]
    assert split(rows[4]) == ["oracle_control", "80.00%", "-"]
    assert rows[5:] == [
        "top-3: default 90.00%, topology 91.00%",
        "gained 60 (A), lost 34 (B), others 1140 (C); p: McNemar's exact test, Holm p: corrected "
        "for all rows",
        "the topology leans most on q050: with the original in its place it loses 1.56 points",
        "The topology is better. That is all.",
    ]


def test_table_columns_stand_below_each_other():
    _, head, *rows = lines(make(), "table")
    end = head.index("top-1") + len("top-1")
    assert {row[:end].endswith("%") for row in rows[:5]} == {True}


def test_table_without_control_has_one_oracle():
    oracle = {"top1": 0.85, "top5": None, "control_top1": None, "control_top5": None}
    for output in ("table", "markdown", "latex", "csv"):
        text = "\n".join(lines(make(oracle=oracle), output))
        assert "oracle" in text
        assert "control" not in text


@pytest.mark.parametrize("leans", [{}, None, {"q010": 0.0, "q050": -0.01}])
def test_table_without_a_branch_to_lean_on_says_nothing_of_it(leans):
    assert "leans" not in "\n".join(lines(make(leans_on=leans), "table"))


def test_table_of_the_places_that_the_rows_have_repeats_none():
    top_k = {"default": {"1": 0.7, "5": 0.9}, "topology": {"1": 0.7, "5": 0.9}}
    assert not any(line.startswith("top-") for line in lines(make(top_k=top_k), "table"))


@pytest.mark.parametrize(("num_seeds", "times"), [(1, ""), (3, ", 3 times")])
@pytest.mark.parametrize("output", ["table", "markdown", "latex"])
def test_title_of_folds_says_how_many_and_how_often(num_seeds, times, output):
    title = lines(in_folds(num_seeds), output)[0]
    assert f", 1,234 images in 5 folds{times} (honest protocol), " in title
    assert "of all" not in title


def test_table_of_folds_has_the_p_of_the_t_test_and_says_so():
    told = lines(in_folds(2), "table")
    assert split(told[3])[6:8] == ["0.044", "0.064"]
    text = "\n".join(told)
    assert "t-test over the folds" in text
    assert "gained" not in text


@FORMS
def test_thesis_protocol_is_told_in_every_form(output):
    honest, thesis = (lines(make(protocol=name), output) for name in ("honest", "thesis"))
    assert "thesis" not in "\n".join(honest)
    if output == "csv":
        assert [row["protocol"] for row in csv.DictReader(thesis)] == ["thesis"] * 5
        assert [row["protocol"] for row in csv.DictReader(honest)] == ["honest"] * 5
    else:
        assert THESIS in thesis[0]


def test_thesis_protocol_stands_in_the_table_that_latex_sets():
    told = [line for line in lines(make(protocol="thesis"), "latex") if not line.startswith("%")]
    assert told[-2] == (
        r"\multicolumn{9}{l}{thesis protocol: on the images that the checkpoints were selected on}"
        r" \\"
    )


def test_markdown_is_a_table_of_as_many_cells_a_row():
    told = lines(make(), "markdown")
    start, stop = told.index("") + 1, told.index("", told.index("") + 1)
    rows = [re.split(r"(?<!\\)\|", line) for line in told[start:stop]]
    assert {len(row) for row in rows} == {11}  # nine cells, and nothing on both sides
    assert {(row[0], row[-1]) for row in rows} == {("", "")}
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert cells[0][1:4] == ["top-1", "95% interval", "top-5"]
    assert cells[1] == ["---", *["---:"] * 8]
    assert [row[0] for row in cells[2:]] == [
        "`default`",
        "`topology`",
        "`{}`".format(ODD.replace("|", r"\|")),
        "`oracle`",
        "`oracle_control`",
    ]
    assert cells[3][1:] == [
        *("77.23%", "72.23 to 82.23", "96.00%", "+2.11", "-0.89 to +5.11", "<0.0001", "0.064"),
        "26%",
    ]
    assert told[0].startswith(r"run my\|run_1: node mixed_9")
    assert told[stop + 1] == "top-3: default 90.00%, topology 91.00%"
    assert told[-2:] == ["", "The topology is better. That is all."]


def test_latex_is_a_whole_table_with_every_sign_escaped():
    told = lines(make(), "latex")
    assert told[:3] == [
        "% " + lines(make(), "table")[0],
        "% The topology is better. That is all.",
        r"% needs \usepackage{booktabs}",
    ]
    assert told[3:5] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"]
    assert told[6] == r"\midrule"
    assert told[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert told[5].startswith(r" & top-1 & 95\% interval & top-5 & ")
    rows = [told[5], *told[7:-2]]
    assert len(rows) == 6
    for row in rows:
        assert row.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", row)) == 8
    assert r"\textless{}0.0001" in rows[2]
    name = (
        r"run\_a\textbar{}b \& c\_d 50\%\#\{x\}\textasciitilde{}\textasciicircum{}\$"
        r"\textbackslash{}\textless{}y\textgreater{}"
    )
    assert rows[3].startswith(f"{name} & 70.00\\% & 65.00 to 75.00 & - & -5.12 & ")
    assert rows[5].startswith(r"oracle\_control & 80.00\% &  & - & ")


def test_csv_has_plain_shares_and_comes_back_as_it_was():
    values = make()
    values["comparators"][ODD]["text"] = 'run "b", fusion concat'
    rows = list(csv.DictReader(lines(values, "csv")))
    assert [row["name"] for row in rows] == [*values["comparators"], "oracle", "oracle_control"]
    for row, found in zip(rows, values["comparators"].values(), strict=False):
        assert row["text"] == found["text"]
        assert [float(row[key]) for key in ("top1", "top1_low", "top1_high")] == [
            found["top1"],
            *found["ci95"],
        ]
        low, high = found["difference_ci95"] or (None, None)
        expected = {
            "top5": found["top5"],
            "difference": found["difference"],
            "difference_low": low,
            "difference_high": high,
            "p": found["mcnemar_p"],
            "holm_p": found["holm_p"],
            "headroom_share": found["headroom_share"],
        }
        assert {key: float(row[key]) if row[key] else None for key in expected} == expected
    assert (rows[3]["text"], rows[3]["top1"], rows[3]["top5"]) == (
        "oracle over the branches",
        "0.85",
        "0.99",
    )
    assert {rows[4][key] for key in ("top1_low", "top5", "difference", "p", "holm_p")} == {""}
    assert rows[4]["top1"] == "0.8"


def test_csv_of_folds_has_the_p_of_the_t_test():
    rows = list(csv.DictReader(lines(in_folds(2), "csv")))
    assert [row["p"] for row in rows[:3]] == ["", "0.0444", "0.0444"]

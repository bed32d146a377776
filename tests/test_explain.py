"""`bottleneck explain`: one judged image in numbers and as a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import invoke, the_error
from drawn import badly_placed, num_colours, pixels
from judged_workspaces import judge, rename_classes

from pipelines import explain
from pipelines.config import ExplainConfig
from pipelines.errors import ConfigError, TrainingError
from pipelines.reporting import portrait


def explained(workspace, image, name="second", **settings):
    return explain.run(workspace, ExplainConfig(**settings), name, image)


def table_of(workspace, name="second"):
    return pq.read_table(workspace / "runs" / name / "predictions.parquet").to_pylist()


def test_explain_numbers_are_those_of_the_predictions(judged):
    for row in table_of(judged):
        found = explained(judged, row["id"])
        assert (found["id"], found["type"], found["split"]) == (row["id"], row["type"], "test")
        assert found["label"] == row["id"].split("/")[1]
        assert found["topology"]["rank"] == row["topology_rank"] + 1
        assert found["topology"]["confidence"] == row["topology_confidence"]
        branches = found["default"]["branches"]
        assert list(branches) == ["original", "q010", "q050", "q090"]
        for name, one in branches.items():
            assert one == {
                "rank": row[f"default_{name}_rank"] + 1,
                "confidence": row[f"default_{name}_confidence"],
            }
        others = [name for name in branches if name != "original"]
        best = max(others, key=lambda name: branches[name]["confidence"])
        assert found["best_version"] == best
        top = found["default"]["top5"]
        assert [one["confidence"] for one in top] == row["default_top5_confidence"]


def test_explain_writes_a_picture_into_the_runs_folder(judged):
    row = table_of(judged)[0]
    found = explained(judged, row["id"])
    folder = judged / "runs" / "second" / "explain"
    (path,) = folder.iterdir()
    assert found["picture"] == str(path)
    assert path.suffix == ".png"
    assert num_colours(pixels(path)) > 100
    assert found["difference"]["factor"] in (1, 2, 4, 8, 16)
    assert found["difference"]["crop"]["width"] == 32


def test_explain_picture_goes_where_it_is_told(judged, tmp_path):
    image = table_of(judged)[0]["id"]
    to = tmp_path / "deep" / "one.svg"
    assert explained(judged, image, to=str(to))["picture"] == str(to)
    assert to.read_text().startswith("<?xml")


def test_explain_picture_without_variants_is_the_same(judged, tmp_path):
    image = table_of(judged)[0]["id"]
    written = []
    for name in ("before.png", "after.png"):
        explained(judged, image, to=str(tmp_path / name))
        written.append((tmp_path / name).read_bytes())
        shutil.rmtree(judged / "variants", ignore_errors=True)
    assert written[0] == written[1]


def test_explain_without_pixels_has_numbers_and_says_why(judged):
    for name in ("variants", "photos"):
        shutil.rmtree(judged / name)
    image = table_of(judged)[0]["id"]
    found = explained(judged, image)
    assert (found["picture"], found["difference"]) == (None, None)
    assert "bottleneck compress" in found["problem"]
    result = invoke("explain", "second", image, "-C", judged)
    assert result.exit_code == 0
    assert "note: no picture: " in result.stderr


def test_explain_takes_a_path_that_ends_in_a_name(judged):
    image = table_of(judged)[0]["id"]
    for asked in (f"/somewhere/photos/{image}", f"./{image}", f"photos/{image}"):
        assert explained(judged, asked)["id"] == image


def test_explain_unknown_image_names_the_nearest(judged):
    image = table_of(judged)[0]["id"]
    with pytest.raises(ConfigError, match=f"no image {image}x among .*; nearest: {image}"):
        explained(judged, image + "x")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", "only images that were judged"),
        ("val", "bottleneck eval --run second --split val"),
    ],
)
def test_explain_image_of_another_split_says_so(split, words, judged):
    rows = pq.read_table(judged / "index" / "images.parquet").to_pylist()
    image = next(row["id"] for row in rows if row["split"] == split)
    with pytest.raises(ConfigError, match=f"image {image} is in split {split}; .*{words}"):
        explained(judged, image)


def test_explain_picture_of_another_kind_is_refused_before_anything(judged):
    result = invoke("explain", "second", "x", "--to", "a.gif", "-C", judged)
    assert "ends in neither .png nor .svg" in the_error(result, status=2)


def test_explain_run_without_results_is_refused(judged):
    (judged / "runs" / "second" / "results.json").unlink()
    with pytest.raises(TrainingError, match="run `bottleneck eval --run second` first"):
        explained(judged, "x")


def test_explain_command_prints_ranks_and_the_pictures_place(judged):
    image = table_of(judged)[0]["id"]
    result = invoke("explain", "second", image, "-C", judged)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{image}: ")
    assert [line.split("  ")[0] for line in lines[2:4]] == ["topology", "default on original"]
    assert sum("(best)" in line for line in lines) == 1
    assert lines[-1].startswith("picture: ")


def test_explain_names_in_any_script_are_drawn_without_complaint(judged):
    rename_classes(judged, "first", ("猫", "$x^2$", "<b>", "n" * 200))
    row = table_of(judged, "first")[0]
    assert Path(explained(judged, row["id"], "first")["picture"]).is_file()


def test_explain_run_of_the_original_alone_draws_it(judged):
    path = judged / "runs" / "first" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "branches": ["original"]}))
    judge(judged, "first")
    found = explained(judged, table_of(judged, "first")[0]["id"], "first")
    assert (found["best_version"], found["difference"]) == (None, None)
    assert num_colours(pixels(found["picture"])) > 50


THESIS = "thesis protocol: selected and reported on the same images"


@pytest.fixture
def titles(monkeypatch):
    """Collect the titles of the pictures that are drawn."""
    found, draw = [], portrait.figure

    def figure(*given):
        drawn = draw(*given)
        found.append(" ".join(drawn.get_suptitle().split()))
        assert badly_placed(drawn) == []
        return drawn

    monkeypatch.setattr(portrait, "figure", figure)
    return found


def test_explain_of_val_says_that_it_was_selected_on_these_images(judged, titles):
    judge(judged, "second", split="val")
    rows = pq.read_table(judged / "runs" / "second" / "predictions-val.parquet").to_pylist()
    image = rows[0]["id"]
    assert explained(judged, image, split="val")["protocol"] == "thesis"
    assert titles[0].endswith(f" by run second ({THESIS})")
    result = invoke("explain", "second", image, "--split", "val", "-C", judged)
    assert result.stdout.splitlines()[1] == THESIS


def test_explain_of_test_is_honest_and_says_nothing_more(judged, titles):
    image = table_of(judged)[0]["id"]
    assert explained(judged, image)["protocol"] == "honest"
    assert titles[0].endswith(" by run second")
    assert "protocol" not in invoke("explain", "second", image, "-C", judged).stdout


def test_explain_command_json_is_the_summary(judged):
    image = table_of(judged)[0]["id"]
    result = invoke("explain", "second", image, "--json", "-C", judged)
    assert json.loads(result.stdout) == explained(judged, image)


def test_safe_name_leads_nowhere_and_keeps_images_apart():
    names = ["a/b.jpg", "a_b.jpg", "../../x", "/etc/passwd", "ü" * 300, "a b", "", ".."]
    safe = [explain.safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all("/" not in name and 0 < len(name.encode()) < 240 for name in safe)
    assert not any(name.startswith(".") for name in safe)

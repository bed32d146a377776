"""`bottleneck nodes`: the contract of its JSON, its table, and where the backbone comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from commands import invoke, the_error

LITE0 = "efficientnet_lite0"


def nodes_of(*arguments: str | Path) -> dict[str, object]:
    result = invoke("nodes", "--json", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_nodes_json_has_the_keys_that_scripts_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no workspace
    summary = nodes_of("--backbone", LITE0)
    assert list(summary) == ["backbone", "nodes"]
    assert summary["backbone"] == LITE0
    keys = ["name", "shape", "num_values", "size_bytes", "tail_params", "tail_macs_share", "block"]
    assert [list(node) for node in summary["nodes"]] == [keys] * len(summary["nodes"])
    for node in summary["nodes"]:
        assert node["num_values"] == math.prod(node["shape"])
        assert node["size_bytes"] == 4 * node["num_values"]
        assert 0 <= node["tail_macs_share"] <= 1


def test_nodes_go_from_the_image_to_the_decision_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = nodes_of("--backbone", LITE0)["nodes"]
    by_name = {node["name"]: node for node in nodes}
    assert by_name["block7a_expand_activation"]["shape"] == [7, 7, 1152]
    last = nodes[-1]
    assert (last["name"], last["shape"], last["block"]) == ("avg_pool", [1280], "FC")
    assert (last["tail_params"], last["tail_macs_share"]) == (0, 0.0)
    for key in ("tail_params", "tail_macs_share"):
        values = [node[key] for node in nodes]
        assert values == sorted(values, reverse=True)
        assert values[0] > 0


def test_nodes_table_has_a_line_a_node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = invoke("nodes", "--backbone", LITE0).stdout.splitlines()
    head = " ".join(lines[0].split())
    assert head == "node shape numbers float32 tail params tail MACs block behind it"
    assert len(lines) == 1 + len(nodes_of("--backbone", LITE0)["nodes"])
    cells = next(line for line in lines if line.startswith("avg_pool ")).split()
    assert cells == ["avg_pool", "1280", "1,280", "5.1", "kB", "0", "0.00%", "FC"]


def test_nodes_in_a_workspace_takes_its_backbone_and_the_flag_wins(tmp_path, monkeypatch):
    (tmp_path / "bottleneck.toml").write_text("[extract]\nbackbone = 'mobilenet'\n")
    assert nodes_of("-C", tmp_path)["backbone"] == "mobilenet"
    monkeypatch.chdir(tmp_path)
    assert nodes_of()["backbone"] == "mobilenet"
    assert nodes_of("--backbone", LITE0)["backbone"] == LITE0


def test_nodes_random_weights_of_any_allowed_seed_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nodes_of("--backbone", "mobilenet", "--seed", str(2**32 - 1))["nodes"]


@pytest.mark.parametrize("name", ["efficientnet", "inception-v4"])
def test_nodes_unknown_backbone_names_the_nearest(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = the_error(invoke("nodes", "--backbone", name))
    assert f"backbone {name!r}: no network of that name, the nearest are " in message


def test_nodes_folder_named_that_is_no_workspace_is_a_usage_error(tmp_path):
    message = the_error(invoke("nodes", "-C", tmp_path, "--backbone", LITE0), status=2)
    assert message.startswith(f"{tmp_path}: no bottleneck.toml here")

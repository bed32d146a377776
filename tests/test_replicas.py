"""What can be told of the devices without several of them; with several see test_devices_shared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.execution import replicas
from pipelines.execution.replicas import Hosts, Replicas
from pipelines.storage.order import Share

CLUSTER = {"worker": ["a:1", "b:1", "c:1"]}


def tell(monkeypatch, config):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)


def test_hosts_without_tf_config_is_this_one_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert replicas.hosts() == Hosts(1, 0)
    tell(monkeypatch, "")
    assert replicas.hosts() == Hosts(1, 0)


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        (CLUSTER, {"type": "worker", "index": 0}, Hosts(3, 0)),
        (CLUSTER, {"type": "worker", "index": 2}, Hosts(3, 2)),
        ({"chief": ["x:1"], **CLUSTER}, {"type": "chief", "index": 0}, Hosts(4, 0)),
        ({"chief": ["x:1"], **CLUSTER}, {"type": "worker", "index": 1}, Hosts(4, 2)),
    ],
)
def test_hosts_counts_the_chief_first(monkeypatch, cluster, task, expected):
    tell(monkeypatch, {"cluster": cluster, "task": task})
    assert replicas.hosts() == expected


@pytest.mark.parametrize(
    "config", ["{", "[]", {"cluster": CLUSTER}, {"cluster": CLUSTER, "task": {"type": "worker"}}]
)
def test_hosts_of_what_cannot_be_read_raises(monkeypatch, config):
    tell(monkeypatch, config)
    with pytest.raises(ConfigError, match=r"TF_CONFIG: cannot be read: .*; see docs/training\.md"):
        replicas.hosts()


@pytest.mark.parametrize("task", [{"type": "worker", "index": 3}, {"type": "ps", "index": 0}])
def test_hosts_of_a_task_that_is_not_listed_raises(monkeypatch, task):
    tell(monkeypatch, {"cluster": CLUSTER, "task": task})
    with pytest.raises(ConfigError, match="is none of the 0 chief and 3 worker hosts"):
        replicas.hosts()


@pytest.mark.parametrize("num", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 7, 100])
def test_share_cuts_a_batch_evenly_whatever_its_size(num, num_rows):
    cuts = Share(0, num, num).cuts(num_rows)
    sizes = np.diff(cuts)
    assert (cuts[0], cuts[-1]) == (0, num_rows)
    assert sizes.max() - sizes.min() <= 1


def test_shares_of_hosts_follow_each_other():
    assert [Share(i, i + 2, 6).cuts(14) for i in (0, 2, 4)] == [[0, 3, 6], [6, 8, 10], [10, 12, 14]]


def test_share_of_pieces_keeps_its_rows_in_order():
    pieces = [(4, np.arange(5)), (5, np.arange(3)), (6, np.arange(4))]
    found = [Share(i, i + 1, 3).of(pieces) for i in range(3)]
    assert [[(n, rows.tolist()) for n, rows in some] for some in found] == [
        [(4, [0, 1, 2, 3])],
        [(4, [4]), (5, [0, 1, 2])],
        [(6, [0, 1, 2, 3])],
    ]


def test_share_of_pieces_without_rows_is_an_empty_piece():
    ((number, rows),) = Share(2, 3, 3).of([(4, np.arange(2))])
    assert (number, len(rows)) == (4, 0)


def test_one_device_has_all_rows_and_writes():
    here = Replicas()
    assert (here.num_here, here.share, here.is_first) == (1, Share(0, 1, 1), True)
    np.testing.assert_array_equal(here.total(np.array([1.0, 2.0])), [1.0, 2.0])

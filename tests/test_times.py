"""What a device did: sums, differences, shares of the time."""

from __future__ import annotations

import time

import pytest

from pipelines.extraction.times import Times

SOME = Times(total_s=10, disk_s=1, decode_s=2, write_s=0.5, variants_s=30)


def test_times_add_up_and_come_apart():
    twice = SOME + SOME
    assert twice == Times(20, 2, 4, 1, 60)
    assert twice - SOME == SOME


def test_shares_are_busy_and_the_waits():
    assert SOME.shares() == {
        "busy": 0.65,
        "wait_decode": 0.2,
        "wait_disk": 0.1,
        "wait_write": 0.05,
    }


def test_shares_of_no_time_are_none():
    assert Times(variants_s=1).shares() is None


def test_shares_waits_over_the_total_leave_no_negative_work():
    assert Times(total_s=1, disk_s=0.75, decode_s=0.5).shares()["busy"] == 0


def test_spending_counts_also_when_it_fails():
    times = Times()
    with pytest.raises(ZeroDivisionError), times.spending("disk_s"):
        time.sleep(0.02)
        raise ZeroDivisionError
    with times.spending("disk_s"):
        time.sleep(0.02)
    assert times.disk_s >= 0.04
    assert times.decode_s == 0

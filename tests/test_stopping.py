from __future__ import annotations

import os
import signal

import pytest

from bottleneck_cli import stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watched_tells_of_a_signal_and_ends_nothing(number):
    with stopping.watched() as is_asked:
        assert not is_asked()
        os.kill(os.getpid(), number)
        assert is_asked()


def test_watched_a_second_signal_ends_the_block():
    with pytest.raises(KeyboardInterrupt), stopping.watched():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_watched_a_signal_that_nobody_was_told_of_ends_what_comes_behind():
    done = []
    with pytest.raises(KeyboardInterrupt), stopping.watched() as is_asked:
        assert not is_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("the rest of the block")
    assert done


def test_watched_gives_the_signals_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopping.watched():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

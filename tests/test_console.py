"""What the user sees: bars on a terminal, lines elsewhere, errors alone under -q, results apart."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import logging_left_as_it_was
from images import make_class_folders

from bottleneck_cli import console
from bottleneck_cli.console import Console

# Reports 7 of 9 units, 2 of them from before, and says one thing in between.
PROGRAM = """
from bottleneck_cli.console import Console
shown = Console(verbosity=0, json_output=False)
shown.start("compress", 9, "image", done=2)
shown.advance(3)
shown.say("a note")
shown.advance(2)
shown.emit({}, ["the result"])
"""

# Shows how it goes, says one thing, and has shown something else when it ends, by `end` or killed.
TRAINING = """
import os, sys, time
from bottleneck_cli.console import Console
shown = Console(verbosity=0, json_output=False)
shown.start("train topology", 256200, "step", done=2)
shown.show("loss 0.6312, lr 0.003")
time.sleep(0.15)  # longer than a bar waits to be drawn again
shown.advance(3)
shown.say("topology, step 5 (epoch 1.00): val top-1 57.78%, loss 0.6747, the best so far")
shown.show("loss 0.4123 to 0.5512, lr 0.001 to 0.1, 1,001 images/s, data wait 0.1%")
time.sleep(0.15)
shown.advance(2)
if sys.argv[1:] == ["killed"]:
    os._exit(0)
shown.close()
shown.say("topology: best val top-1 57.78%")
"""


@pytest.fixture(autouse=True)
def logging_restored():
    with logging_left_as_it_was():
        yield


def on_a_terminal(*command: str | Path, size: tuple[int, int] = (24, 100), status: int = 0) -> str:
    """Run a command with a terminal of (rows, columns) as its stdout and stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        try:
            while block := os.read(ours, 4096):
                output += block
        except OSError as error:  # how Linux tells that the other side is closed
            assert error.errno == errno.EIO
        finally:
            os.close(ours)
    assert process.returncode == status, output
    return output.decode()


def screen(output: str, columns: int) -> list[str]:
    """Return the lines that a terminal shows; none may be longer than it is wide."""
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\r|\n|\x1b\[A)", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] if row == len(lines) else []
        elif part == "\x1b[A":
            row -= 1
        else:
            assert "\x1b" not in part
            assert column + len(part) <= columns, part
            old = lines[row].ljust(column)
            lines[row] = old[:column] + part + old[column + len(part) :]
            column += len(part)
    while not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("size", [(24, 80), (24, 120), (0, 0)], ids=["80", "120", "unknown"])
def test_console_on_a_terminal_shows_how_it_goes_below_the_bar(size):
    command = [sys.executable, "-c", TRAINING, "killed"]
    said, bar, below = screen(on_a_terminal(*command, size=size), size[1] or 80)
    assert said == "topology, step 5 (epoch 1.00): val top-1 57.78%, loss 0.6747, the best so far"
    assert re.fullmatch(
        r"train topology:   0%\|[\W\d]*\| 7/256200 \[00:00<\S+, +[\d.]+ steps/s\]", bar
    )
    assert below == "  loss 0.4123 to 0.5512, lr 0.001 to 0.1, 1,001 images/s, data wait 0.1%"


def test_console_on_a_terminal_leaves_a_bar_that_ends_and_nothing_below_it():
    lines = screen(on_a_terminal(sys.executable, "-c", TRAINING, size=(24, 80)), 80)
    assert [line[:14] for line in lines] == ["topology, step", "train topology", "topology: best"]


@pytest.mark.parametrize("size", [(24, 100), (0, 0)], ids=["known size", "unknown size"])
def test_console_on_a_terminal_shows_a_bar_and_notes_above_it(size):
    output = on_a_terminal(sys.executable, "-c", PROGRAM, size=size)
    assert re.search(r"\rcompress:  78%\|.*\| 7/9 \[.*images/s\]\r\n", output)
    assert re.search(r"\r *\ra note\r\n\rcompress: ", output)
    assert output.endswith("\r\nthe result\r\n")


def test_compress_on_a_terminal_shows_bars(tmp_path):
    make_class_folders(tmp_path / "photos")
    (tmp_path / "bottleneck.toml").write_text("[compress]\nimages = 'photos'\nqualities = [50]\n")
    program = Path(sys.executable).with_name("bottleneck")
    output = on_a_terminal(program, "compress", "-C", tmp_path)
    assert re.search(r"\rhash: 100%\|.*\| 8/8 \[.*images/s\]", output)
    assert re.search(r"\rcompress: 100%\|.*\| 8/8 \[.*images/s\]\r\ncompress: 8 images, ", output)


def test_compress_error_on_a_terminal_starts_on_a_line_below_the_bar(tmp_path):
    for path in make_class_folders(tmp_path / "photos")[:2]:
        path.write_bytes(b"no image")
    (tmp_path / "bottleneck.toml").write_text("[compress]\nimages = 'photos'\nqualities = [50]\n")
    program = Path(sys.executable).with_name("bottleneck")
    output = on_a_terminal(program, "compress", "-C", tmp_path, status=1)
    assert re.search(
        r"\rcompress: [^\n]*images/s\]\r\nerror: [^\n]*cannot be used[^\n]*\n$", output
    )


def test_console_elsewhere_writes_a_line_with_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    shown = Console(0, json_output=False)
    shown.start("compress", 9, "image", done=2)
    shown.advance(3)
    shown.advance(4)
    output = capsys.readouterr()
    pattern = r"compress: (\d)/9 images, [\d.]+ images/s, (\d\d:\d\d) left"
    assert re.findall(pattern, output.err)[0][0] == "5"
    assert re.findall(pattern, output.err)[1] == ("9", "00:00")
    assert len(output.err.splitlines()) == 2
    assert output.out == ""


def test_console_elsewhere_counts_rate_without_what_was_there_before(capsys, monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(now)))
    shown = Console(0, json_output=False)
    shown.start("extract", 1000, "image", done=500)
    shown.advance(50)
    assert capsys.readouterr().err == "extract: 550/1000 images, 5.0 images/s, 01:30 left\n"


def test_console_elsewhere_shows_how_it_goes_behind_the_time_left(capsys, monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(now)))
    shown = Console(0, json_output=False)
    shown.show("of nothing yet")
    shown.start("train topology", 30, "step")
    shown.show("loss 0.6, lr 0.003")
    shown.show("loss 0.5, lr 0.003")
    shown.advance(10)
    line = "train topology: 10/30 steps, 1.0 steps/s, 00:20 left, loss 0.5, lr 0.003\n"
    assert capsys.readouterr().err == line


def test_console_quiet_shows_nothing_of_how_it_goes(capsys):
    shown = Console(-1, json_output=False)
    shown.start("train topology", 1, "step")
    shown.show("loss 0.5")
    shown.advance(1)
    assert capsys.readouterr().err == ""


def test_console_elsewhere_is_silent_between_lines_but_for_the_last(capsys):
    shown = Console(0, json_output=False)
    shown.start("compress", 100, "image")
    for _ in range(100):
        shown.advance(1)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["100/100"]


def test_console_nothing_left_to_do_shows_no_progress(capsys):
    shown = Console(0, json_output=False)
    shown.start("compress", 9, "image", done=9)
    shown.advance(0)
    assert capsys.readouterr().err == ""


def test_console_notes_go_to_stderr_and_results_to_stdout(capsys):
    shown = Console(0, json_output=False)
    shown.say("a note")
    shown.emit({"stage": "x"}, ["first", "second"])
    output = capsys.readouterr()
    assert (output.out, output.err) == ("first\nsecond\n", "a note\n")


def test_console_json_is_one_line_of_stdout(capsys):
    shown = Console(0, json_output=True)
    summary = {"stage": "init", "classes": {"größer\nals": 1}, "gain": None}
    shown.emit(summary, ["text"])
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    assert json.loads(output.out) == summary
    assert output.err == ""


def test_console_json_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError, match="Out of range float values"):
        Console(0, json_output=True).emit({"gain": float("nan")}, [])


def test_console_quiet_prints_nothing_but_errors(capsys):
    shown = Console(-1, json_output=False)
    shown.start("compress", 1, "image")
    shown.advance(1)
    shown.say("a note")
    logging.getLogger("pipelines.images").warning("a warning")
    shown.emit({}, ["result"])
    assert capsys.readouterr() == ("", "")
    logging.getLogger("pipelines.images").error("an error")
    assert capsys.readouterr().err == "error: an error\n"


def test_console_quiet_json_still_prints_the_object(capsys):
    Console(-1, json_output=True).emit({"stage": "x"}, ["text"])
    assert capsys.readouterr().out == '{"stage": "x"}\n'


@pytest.mark.parametrize(
    ("verbosity", "expected"), [(0, "warning: w\n"), (1, "info: i\nwarning: w\n")]
)
def test_console_logs_are_lines_on_stderr(verbosity, expected, capsys):
    Console(verbosity, json_output=False)
    logging.getLogger("pipelines.x").info("i")
    logging.getLogger("pipelines.x").warning("w")
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(("share", "shown"), [(None, "-"), (0.0, "0.00%"), (0.77964, "77.96%")])
def test_percent_of_a_share(share, shown):
    assert console.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 5 min"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_duration_is_shown_in_its_largest_units(seconds, shown):
    assert console.duration(seconds) == shown

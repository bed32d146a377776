"""Tiny disks for the tests: real file systems that are soon full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs on a new `folder`; skips the test where that is not allowed.

    Args:
        folder: where; made here.
        options: of the mount, such as "size=64k" or "nr_inodes=4".
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"a tmpfs cannot be mounted here: {reason.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted disk, such as to "size=1m" or "ro"."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

"""A machine with GPUs, as far as the driver's own program tells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

NAME = "NVIDIA H100 80GB HBM3, cut in parts"


def put_program(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put an `nvidia-smi` of these lines of shell first on the path."""
    program = folder / "nvidia-smi"
    program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


def put_gpus(
    folder: Path, monkeypatch: pytest.MonkeyPatch, names: Sequence[str] = (NAME, NAME)
) -> None:
    """Let GPUs of these models be there."""
    asked = 'test "$*" = "--query-gpu=index,name --format=csv,noheader" || exit 2'
    told = [f'echo "{index}, {name}"' for index, name in enumerate(names)]
    put_program(folder, monkeypatch, asked, *told)

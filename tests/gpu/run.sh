#!/usr/bin/env bash
# Runs the checks of this folder on this machine: what GPUs there are, then check by check with its
# time, and why one was left out. Arguments go to pytest.
#
#   make env EXTRAS=demo,dev,gpu
#   bash tests/gpu/run.sh
#   bash tests/gpu/run.sh -k busy
#
# Another environment than .venv: PYTHON=/path/to/python bash tests/gpu/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ ! -e /dev/nvidiactl ]; then
  echo "error: no /dev/nvidiactl: this machine, or container, has no NVIDIA GPU" >&2
  exit 1
fi
nvidia-smi --query-gpu=index,name,memory.used,memory.total,driver_version --format=csv
exec "${PYTHON:-.venv/bin/python}" -m pytest tests/gpu --verbose --tb=short --durations=0 "$@"

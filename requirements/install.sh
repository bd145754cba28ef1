#!/bin/sh
# Makes $VENV with exactly what cpu.lock says. Needs Python 3.11 and a C++ compiler, nothing else.
set -eu
PYTHON=${PYTHON:-python3.11}
VENV=${VENV:-.venv}
TORCH=$(grep '^torch==' requirements/cpu.lock)

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --upgrade pip setuptools wheel

# Where pip's own sources have no CPU build of torch, PyTorch's CPU wheel index has one.
if "$VENV/bin/python" -m pip download --quiet --no-deps --dest "$VENV/.wheels" "$TORCH" 2>/dev/null; then
    EXTRA=""
else
    EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"
fi
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install --quiet --no-deps $EXTRA --find-links "$VENV/.wheels" "$TORCH"
# shellcheck disable=SC2086
"$VENV/bin/python" -m pip install --quiet --no-deps $EXTRA --find-links "$VENV/.wheels" -r requirements/cpu.lock
"$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
rm -rf "$VENV/.wheels"

#!/bin/sh
# Makes the lock files again; needs `pip install uv` in the environment. PIP_FIND_LINKS may name a folder with wheels.
set -eu
for kind in cpu gpu; do
    .venv/bin/uv pip compile "requirements/$kind.in" --override "requirements/$kind.overrides" \
        ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} --python-version 3.11 --no-header --no-annotate \
        --no-emit-find-links --no-emit-index-url --output-file "requirements/$kind.lock"
done

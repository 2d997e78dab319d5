#!/usr/bin/env bash
# Style and type checks, as .ci/run does them.
set -euo pipefail
source "$(dirname "$0")/env.sh"
make_environment
ruff check .
ruff format --check .
mypy

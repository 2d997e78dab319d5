#!/usr/bin/env bash
# Makes the environment and runs the tests.  Usage: scripts/test.sh [--fast | --thorough] [pytest arguments]
#   --fast       leave out the tests marked slow (several processes, kills, longer trainings)
#   --thorough   run those marked thorough as well, which repeat slow ones in other settings
set -euo pipefail
source "$(dirname "$0")/env.sh"
make_environment
case "${1:-}" in
  --fast) shift; set -- -m "not slow and not thorough" "$@" ;;
  --thorough) shift ;;
  *) set -- -m "not thorough" "$@" ;;
esac
unset PYTHONDONTWRITEBYTECODE  # Compiling the tests takes each process five seconds, and their children compile too.
# Two processes, each test file in one of them: a second TensorFlow costs less than it saves.
# In the order of tests/conftest.py.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12 "$@"

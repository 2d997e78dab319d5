#!/usr/bin/env bash
# From nothing to evaluated models: makes the environment, draws the demo faces, trains recipes/fast.yaml with three seeds on
# every device of this machine, scores each on Test, and says where everything is.
# Usage: scripts/demo.sh [OUT_DIR] [trainer flags]      OUT_DIR defaults to ./demo
set -euo pipefail
out=demo
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then out=$1; shift; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source scripts/env.sh
make_environment

python -m trainer demo "$out" "$@"

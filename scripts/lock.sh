#!/usr/bin/env bash
# Writes the lock files: the version and hashes of every package that CI and the image install.
# Usage: scripts/lock.sh [--upgrade | --upgrade-package=NAME]
#   Without an argument versions stay, except where the bounds in setup.py forbid it.
#   requirements/dev.txt     extras all and dev, for Python 3.11 and 3.12
#   requirements/image*.txt  extras gpu, tensorboard, serve and storage without the Kubernetes client, for the image alone;
#                            in three files, because CUDA and TensorFlow are layers of their own
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<0.14'

lock() { # $1: output, which also says which versions stay; then the options
  "$work/venv/bin/uv" pip compile setup.py --output-file="$1" --generate-hashes --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command=scripts/lock.sh --quiet "${@:2}"
}

lock requirements/dev.txt --extra=all --extra=dev --universal --python-version=3.11 "$@"

parts=(requirements/image-cuda.txt requirements/image-tensorflow.txt requirements/image.txt)
cat "${parts[@]}" > "$work/image.txt" 2>/dev/null || true
# The image submits nothing: an environment that does not exist is the only one for which it has the client.
echo "kubernetes ; sys_platform == 'none'" > "$work/overrides.txt"
lock "$work/image.txt" --extra=gpu --extra=tensorboard --extra=serve --extra=storage --override="$work/overrides.txt" \
  --python-platform=linux --python-version=3.12 "$@"
awk -v cuda="${parts[0]}" -v tensorflow="${parts[1]}" -v rest="${parts[2]}" '
  /^#/ { print > cuda; print > tensorflow; print > rest; next }
  /^[^ ]/ { part = /^nvidia-/ ? cuda : /^(tensorflow|keras|libclang)==/ ? tensorflow : rest }
  { print > part }' "$work/image.txt"

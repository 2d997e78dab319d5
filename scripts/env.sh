# Sourced by the other scripts: makes the project's own environment in .venv once, of the packages in requirements/dev.txt
# (scripts/lock.sh), and again when that or setup.py changes.
# DEEPDETECT_PYTHON names the Python to make it with (3.11 or 3.12).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  for candidate in "${DEEPDETECT_PYTHON:-}" python3.12 python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "expected Python 3.11 or 3.12, found none; install one or set DEEPDETECT_PYTHON" >&2
  return 2
}

make_environment() {
  local python stamp
  python=$(find_python) || exit 2
  stamp="$("$python" --version) $(cksum setup.py requirements/dev.txt)"
  if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
    echo "making the environment in .venv (some minutes, once)" >&2
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt >&2
    # Built by the locked setuptools, not by the newest one.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
    echo "$stamp" > .venv/stamp
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

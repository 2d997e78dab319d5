#!/usr/bin/env bash
# Installs Slurm's daemons from the distribution's packages, for tests/submit/test_slurm.py, which are skipped without.
# Never fails: without root, apt or a mirror it says so, and the tests say why they are skipped.
set -uo pipefail
absent=
for program in slurmctld slurmd sbatch munged; do command -v "$program" >/dev/null || absent=1; done
[ "$absent" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Slurm is not installed, which needs root and apt-get: its tests are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{ timeout 60 apt-get update && timeout 120 apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
} >/dev/null 2>&1 || echo "Slurm's packages cannot be installed now: its tests are skipped" >&2
exit 0

#!/usr/bin/env bash
# Installs what some tests run and pip cannot: Slurm's daemons, Chromium, zsh and fish, from the distribution's packages.
# Never fails: without root, apt or a mirror it says so, and the tests that need a program say why they are skipped.
set -uo pipefail
declare -A packages=([slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge [chromium]=chromium
  [zsh]=zsh [fish]=fish)
absent=()
for program in "${!packages[@]}"; do command -v "$program" >/dev/null || absent+=("${packages[$program]}"); done
[ ${#absent[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed, which needs root and apt-get: ${absent[*]}; tests of them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
timeout 60 apt-get update >/dev/null 2>&1
for package in "${absent[@]}"; do  # One by one: a distribution may lack one of them.
  timeout 240 apt-get install -y --no-install-recommends "$package" >/dev/null 2>&1 ||
    echo "cannot be installed now: $package; tests of it are skipped" >&2
done
exit 0

"""Slurm: render batch scripts, submit and follow jobs."""

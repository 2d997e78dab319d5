"""Exports: at the end of a job, and of its checkpoints later."""

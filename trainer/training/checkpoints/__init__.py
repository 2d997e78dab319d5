"""Checkpoints: their files, when they are written and which one a job continues from."""

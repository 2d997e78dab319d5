"""Ranks, devices and strategies, and how the processes of a job connect, agree and stop."""

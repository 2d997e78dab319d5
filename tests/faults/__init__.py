"""Faults injected into whole commands: exit code, message and weights."""

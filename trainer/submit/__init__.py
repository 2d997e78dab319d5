"""Kubernetes: render, submit and follow jobs."""

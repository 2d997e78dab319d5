"""Runs on Kubernetes: their objects, what the cluster needs and reports, their logs."""

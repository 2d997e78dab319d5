"""Run training jobs in a Kubernetes cluster: check, plan, render, submit, follow.  Imports no TensorFlow."""

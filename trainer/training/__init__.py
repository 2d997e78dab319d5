"""The training job: trainer, loop, train step, checkpoints, evaluator, observers, exporter."""

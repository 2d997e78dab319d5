"""Hyperparameter sweeps: KerasTuner searches, ``trainer.train`` runs the trials."""

"""The page that ``trainer.predict --report`` writes."""

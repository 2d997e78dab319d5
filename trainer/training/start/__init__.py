"""The start of a job: its initial weights, how its parts are put together, and where the seconds go."""

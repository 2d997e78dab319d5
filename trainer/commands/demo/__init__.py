"""The demonstration: drawn faces and forgeries of them, a job, and its figures."""

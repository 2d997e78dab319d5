"""``--batch_size=auto``: the largest batch that fits, found before the job starts."""

"""An exported model: write, verify, convert, load, score, explain."""

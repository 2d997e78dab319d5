"""Networks by name, and the layers they are built from."""

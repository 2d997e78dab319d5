"""A small HTTP server in front of an exported model."""

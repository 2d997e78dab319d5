"""Decode images, in this process or in others."""

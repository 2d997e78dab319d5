"""Self-blended images: masks, the blending of an image with itself, and the forgeries of a Validation without any."""

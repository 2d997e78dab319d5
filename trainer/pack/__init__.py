"""Pack a folder of images into a few large files that are read fast, from a disk or a bucket."""

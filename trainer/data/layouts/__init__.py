"""From a data_dir as it lies (folders, list files, the trees of known data sets) to splits."""

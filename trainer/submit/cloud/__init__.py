"""``submit up`` and ``down``: a cluster on GKE, a bucket and accounts, by commands that are printed."""

"""``submit doctor``: whether a cluster has what runs need, and what to do about what it lacks."""

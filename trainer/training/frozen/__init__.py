"""The first epochs of a job, in which the backbone is frozen and only the last layer is trained, on cached features."""

"""One step of training: gradients of a batch, their sum over all replicas, and the update of the weights."""

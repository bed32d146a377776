"""Learning rate, checkpoints and the training loop of the tail."""

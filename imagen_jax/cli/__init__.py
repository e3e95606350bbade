"""The command line: painting, training and the smaller verbs. JAX is imported by none before
its flags are read."""

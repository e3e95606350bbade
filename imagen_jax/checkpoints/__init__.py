"""Training directories: what a run leaves, and the way back."""

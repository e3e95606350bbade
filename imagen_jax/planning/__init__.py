"""What a step needs on a pod, compiled or estimated on a machine that has none."""

"""The page where a prompt is tried in a browser: `python -m imagen_jax serve`."""

"""Paint pictures from prompts: `python sample.py --help`, or imagen_jax/cli/sample.py."""

from imagen_jax.cli.program import sample

if __name__ == "__main__":
    sample()

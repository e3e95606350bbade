"""Train one stage of the cascade: `python train.py --help`, or imagen_jax/cli/train.py."""

from imagen_jax.cli.program import train

if __name__ == "__main__":
    train()

"""Train one stage of the cascade: `python train.py --help`, or imagen_jax/cli/train.py."""

from imagen_jax.cli.train import main

if __name__ == "__main__":
    main()

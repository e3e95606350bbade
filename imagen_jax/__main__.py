"""All commands of the package: python -m imagen_jax --help"""

from imagen_jax.cli.program import package

if __name__ == "__main__":
    package()

# The package with JAX for NVIDIA's GPUs. Nobody has built this file yet.
#
#     docker build -f docker/cuda.Dockerfile -t imagen-jax .
#     docker run --gpus all -v $PWD/out:/work/out imagen-jax sample "a red apple"
#
# CUDA's libraries come with JAX from PyPI; the host provides the driver.
FROM python:3.12-slim

WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY configs configs
COPY imagen_jax imagen_jax
RUN pip install --no-cache-dir ".[cuda]" && rm -rf /source

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["imagen"]
CMD ["--help"]

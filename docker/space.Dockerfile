# The page for a Space of Hugging Face, or anywhere that runs containers. Nobody has built this file yet.
#
#     docker build -f docker/space.Dockerfile -t imagen-page .
#     docker run -p 127.0.0.1:7860:7860 imagen-page python -m imagen_jax serve \
#         --host 0.0.0.0 --hosts localhost 127.0.0.1
#
# Without --hosts, as in a Space, browsers may call the page by any name.
# With --build-arg EXTRAS=ui,cuda it runs on NVIDIA's GPUs, with EXTRAS=ui,tpu on TPUs. A Space takes this file
# as its Dockerfile, beside a README.md whose header says `sdk: docker` and `app_port: 7860`.
FROM python:3.12-slim

ARG EXTRAS=ui
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY configs configs
COPY imagen_jax imagen_jax
RUN pip install --no-cache-dir ".[$EXTRAS]" && rm -rf /source

# Spaces run as this user; what is compiled is kept in its home.
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 7860
CMD ["python", "-m", "imagen_jax", "serve", "--host", "0.0.0.0", "--port", "7860"]

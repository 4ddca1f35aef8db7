# syntax=docker/dockerfile:1
# A worker. torch comes from TORCH_INDEX; empty means PyPI, whose Linux wheels bring CUDA along.

FROM python:3.11.14-slim-bookworm AS build
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/apiq
WORKDIR /src
# the dependencies first: this layer is kept until they change
COPY pyproject.toml constraints.txt README.md ./
# torch alone from its index: what else that index has must not replace what PyPI has
RUN /opt/apiq/bin/pip install --constraint constraints.txt --no-deps \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && /opt/apiq/bin/pip install --constraint constraints.txt ".[worker]"
COPY . .
RUN /opt/apiq/bin/pip install --no-deps --force-reinstall .

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --create-home apiq \
 && install -d -o apiq -g apiq /srv/apiq /srv/cache /srv/models
COPY --from=build /opt/apiq /opt/apiq
# what the NVIDIA container toolkit is to bring in: the driver, not graphics
ENV PATH=/opt/apiq/bin:$PATH PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    APIQ_DATA_DIR=/srv/apiq APIQ_MODELS_DIR=/srv/models HF_HOME=/srv/cache
USER 10001
WORKDIR /srv/apiq
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
  CMD ["python", "-m", "worker.health"]
CMD ["python", "-m", "worker"]

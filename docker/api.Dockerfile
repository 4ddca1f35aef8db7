# syntax=docker/dockerfile:1
# The API, the migrations and the `apiq` command. No torch: the worker's image has it.

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/apiq
WORKDIR /src
# the dependencies first: this layer is kept until they change
COPY pyproject.toml constraints.txt README.md ./
RUN /opt/apiq/bin/pip install --constraint constraints.txt .
COPY . .
RUN /opt/apiq/bin/pip install --no-deps --force-reinstall .

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 10001 --create-home apiq \
 && install -d -o apiq -g apiq /srv/apiq /srv/cache /srv/models
COPY --from=build /opt/apiq /opt/apiq
# the address inside the container; who may reach it is said where the port is published
ENV PATH=/opt/apiq/bin:$PATH PYTHONUNBUFFERED=1 \
    APIQ_HOST=0.0.0.0 APIQ_PORT=8000 \
    APIQ_DATA_DIR=/srv/apiq APIQ_MODELS_DIR=/srv/models HF_HOME=/srv/cache
USER 10001
WORKDIR /srv/apiq
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
CMD ["python", "-m", "api"]

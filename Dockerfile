# The service in a container: no PyTorch, no compiler, no root.
#   docker build --target cpu -t resnet-serve:cpu .
#   docker build --target gpu -t resnet-serve:gpu .
# Further extras of pyproject.toml, separated by spaces: --build-arg EXTRAS=openvino
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/resnet-serve
ENV PATH=/opt/resnet-serve/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

FROM build AS build-cpu
ARG EXTRAS=""
# Dependencies first: a change of the code alone then reuses their layer.
COPY docker/dependencies.py pyproject.toml ./
RUN python dependencies.py cpu ${EXTRAS} > requirements.txt && pip install -r requirements.txt
COPY . .
RUN pip install --no-deps .

FROM build AS build-gpu
ARG EXTRAS=""
COPY docker/dependencies.py pyproject.toml ./
RUN python dependencies.py gpu ${EXTRAS} > requirements.txt && pip install -r requirements.txt
COPY . .
RUN pip install --no-deps .

FROM ${PYTHON_IMAGE} AS base
RUN groupadd --system --gid 10001 serve \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent serve \
 && mkdir /models /cache && chown serve:serve /cache
ENV PATH=/opt/resnet-serve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RESNET_SERVE_HOST=0.0.0.0 \
    RESNET_SERVE_PORT=8000 \
    RESNET_SERVE_LOG_FORMAT=json \
    RESNET_SERVE_CACHE_DIR=/cache
USER 10001:10001
WORKDIR /models
EXPOSE 8000
# Liveness only: a model that is not ready should lose its traffic, not its container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['RESNET_SERVE_PORT']), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnet-serve"]
CMD ["serve"]

FROM base AS gpu
COPY --from=build-gpu /opt/resnet-serve /opt/resnet-serve
# What NVIDIA's container runtime reads to hand the GPU in.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RESNET_SERVE_PROVIDER=cuda

FROM base AS cpu
COPY --from=build-cpu /opt/resnet-serve /opt/resnet-serve

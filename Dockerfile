# The command line with everything it needs. Nobody has built it yet: the project's own checks run
# without a container engine.
#
#   CPU:  docker build --tag bottleneck .
#   GPU:  docker build --tag bottleneck:gpu --build-arg DEVICE=gpu .
#
# The GPU image brings the CUDA libraries as Python packages; the host gives the driver and the
# NVIDIA Container Toolkit. Both hold the demo's photographs and weights, for EXTRAS=demo unless
# `--build-arg EXTRAS=` leaves them out; the photographs are CC-BY-NC-SA-4.0, see data/README.md.
#
# A base image named by its digest, `--build-arg PYTHON_IMAGE=python@sha256:...`, is the same again
# tomorrow; what pip finds within the ranges of setup.cfg need not be.
#
# A workspace is a volume; the container writes as whoever runs it:
#
#   docker run --rm --volume "$PWD:/workspace" --user "$(id -u):$(id -g)" bottleneck compress
#   docker run --rm --gpus all --volume "$PWD:/workspace" --user "$(id -u):$(id -g)" bottleneck:gpu extract
#
# ImageNet's weights are downloaded into the container and go with it; `--env
# KERAS_HOME=/workspace/.keras` keeps them.

ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}

ARG UID=1000
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid ${UID} --create-home bottleneck \
    && install --directory --owner bottleneck --mode 0777 /workspace

# The dependencies are a layer of their own: the install needs to see the two packages, not their
# code, and is not repeated when only the code changes.
ARG DEVICE=cpu
ARG EXTRAS=demo
WORKDIR /opt/bottleneck
COPY Makefile setup.cfg pyproject.toml LICENSE ./
COPY bottleneck_cli/__init__.py bottleneck_cli/
COPY pipelines/__init__.py pipelines/
RUN case "${DEVICE}" in \
        cpu) extras="${EXTRAS}" ;; \
        gpu) extras="${EXTRAS:+${EXTRAS},}gpu" ;; \
        *) echo "DEVICE=${DEVICE}: expected cpu or gpu" >&2; exit 1 ;; \
    esac \
    && PIP_NO_CACHE_DIR=1 make env EXTRAS="${extras}"

COPY bottleneck_cli bottleneck_cli
COPY pipelines pipelines
RUN chmod -R a+rX bottleneck_cli pipelines \
    && .venv/bin/python -m compileall -q bottleneck_cli pipelines

# A home that any user id can write to, for what TensorFlow, numba and matplotlib keep there; of the
# NVIDIA driver what computes, and nvidia-smi, which tells what GPUs there are.
ENV PATH=/opt/bottleneck/.venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER bottleneck
WORKDIR /workspace
VOLUME /workspace
ENTRYPOINT ["bottleneck"]
CMD ["--help"]

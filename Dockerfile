# The command line with everything it needs. It has not been built by the project's
# own checks, which run without a container engine.
#
#   CPU:  docker build --tag bottleneck .
#   GPU:  docker build --tag bottleneck:gpu --build-arg EXTRAS=demo,gpu .
#
# The GPU image brings the CUDA libraries as Python packages; the host gives the driver and the
# NVIDIA Container Toolkit. The demo's photographs (extra `demo`) are CC-BY-NC-SA-4.0, see
# data/README.md; `--build-arg EXTRAS=` leaves them out.
#
#   docker run --rm --volume "$PWD:/workspace" --user "$(id -u):$(id -g)" bottleneck compress
#   docker run --rm --gpus all --volume "$PWD:/workspace" --user "$(id -u):$(id -g)" bottleneck:gpu extract

ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE}

ARG EXTRAS=demo
ARG UID=1000

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid ${UID} --create-home bottleneck \
    && install --directory --owner bottleneck --mode 0777 /workspace

WORKDIR /opt/bottleneck
# The dependencies are a layer of their own: the install needs to see the two packages, not their
# code, and is not repeated when only the code changes.
COPY Makefile setup.cfg pyproject.toml LICENSE ./
COPY bottleneck_cli/__init__.py bottleneck_cli/
COPY pipelines/__init__.py pipelines/
RUN PIP_NO_CACHE_DIR=1 make env EXTRAS=${EXTRAS}

COPY . .
RUN .venv/bin/python -m compileall -q bottleneck_cli pipelines

# A home that any user id can write to, for what TensorFlow and matplotlib keep there.
ENV PATH=/opt/bottleneck/.venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
USER bottleneck
WORKDIR /workspace
VOLUME /workspace
ENTRYPOINT ["bottleneck"]
CMD ["--help"]

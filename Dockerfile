# syntax=docker/dockerfile:1
# The trainer with TensorFlow and its CUDA libraries, for linux/amd64 machines with an NVIDIA driver; it runs on a CPU as well.
#   docker build -t deepdetect .
#   mkdir -p jobs
#   docker run --gpus all --user "$(id -u):$(id -g)" --read-only --tmpfs /tmp -v "$PWD/data:/data:ro" -v "$PWD/jobs:/jobs" \
#     deepdetect --data_dir=/data --job_dir=/jobs/first
#   docker run --gpus all deepdetect --selftest
#   docker run --entrypoint deepdetect deepdetect help

# To pin the base: --build-arg PYTHON=python:3.12-slim@sha256:...
ARG PYTHON=python:3.12-slim
# What the code is put on: the stage below, or a published image of it. scripts/submit.py build passes one.
ARG BASE=base

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/deepdetect
COPY scripts/trim_packages.sh /src/

# A stage for each lock file, because each becomes a layer, and CUDA changes least often.  Bytecode that is never compared
# with its source needs no times of files, so the same lock file gives the same layer.
FROM build AS cuda
COPY requirements/image-cuda.txt /src/
RUN pip --python /opt/deepdetect/bin/python install --no-deps --no-compile --require-hashes -r /src/image-cuda.txt \
    && /src/trim_packages.sh /opt/deepdetect/lib/python3.12/site-packages

FROM build AS tensorflow
COPY requirements/image-tensorflow.txt /src/
RUN pip --python /opt/deepdetect/bin/python install --no-deps --no-compile --require-hashes -r /src/image-tensorflow.txt \
    && /src/trim_packages.sh /opt/deepdetect/lib/python3.12/site-packages \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/deepdetect/lib

FROM build AS packages
COPY requirements/image.txt /src/
RUN pip --python /opt/deepdetect/bin/python install --no-deps --no-compile --require-hashes -r /src/image.txt \
    && /src/trim_packages.sh /opt/deepdetect/lib/python3.12/site-packages \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/deepdetect/lib

# The code, with the recipes where an installed package has them: a small layer above the large ones.
FROM build AS code
COPY trainer /code/trainer
COPY recipes /code/trainer/_files/recipes
RUN mkdir /code/bin \
    && printf '#!/bin/sh\nexec python -m trainer "$@"\n' > /code/bin/deepdetect \
    && chmod 755 /code/bin/deepdetect \
    && chmod -R go=rX /code \
    && python -m compileall -q --invalidation-mode unchecked-hash /code/trainer

# All but the code.
FROM ${PYTHON} AS base
# Nothing that installs or builds is left for whoever breaks in.
RUN python -m pip uninstall --yes --quiet pip \
    && rm -rf /usr/local/lib/python3.12/ensurepip \
    && useradd --uid 10001 --no-create-home --home-dir /tmp deepdetect
COPY --from=cuda /opt/deepdetect /opt/deepdetect
COPY --from=tensorflow /opt/deepdetect /opt/deepdetect
COPY --from=packages /opt/deepdetect /opt/deepdetect
USER 10001:10001
WORKDIR /tmp
# The root file system may be read-only: whatever libraries like to write goes to /tmp.  A user whom /etc/passwd does not
# list, as with docker run --user, gets home and name from here.
ENV PATH=/opt/code/bin:/opt/deepdetect/bin:$PATH PYTHONPATH=/opt/code PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=deepdetect LOGNAME=deepdetect TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["python", "-m", "trainer.train"]

FROM ${BASE}
COPY --from=code /code /opt/code

# syntax=docker/dockerfile:1
# The trainer with TensorFlow and its CUDA libraries, for machines with an NVIDIA driver; it runs on a CPU as well.
#   docker build -t deepdetect .
#   docker run --gpus all --read-only --tmpfs /tmp -v "$PWD/data:/data:ro" -v "$PWD/jobs:/jobs" \
#     deepdetect --data_dir=/data --job_dir=/jobs/first
#   docker run --gpus all deepdetect --selftest

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/deepdetect
WORKDIR /src
# Dependencies first: they change less often than the code, so the large layer is kept between builds.
COPY setup.py pyproject.toml ./
COPY trainer/__init__.py trainer/__init__.py
# setup.py pins what is installed.
# hadolint ignore=DL3013
RUN pip --python /opt/deepdetect/bin/python install ".[gpu,tensorboard]" \
    && pip --python /opt/deepdetect/bin/python uninstall --yes deepdetect

# The code alone: a small layer above the large one.
FROM build AS code
COPY trainer trainer
RUN pip install --no-deps --no-compile --target /code .

FROM python:3.12-slim
# Nothing that installs or builds is left for whoever breaks in.
RUN python -m pip uninstall --yes --quiet pip \
    && rm -rf /usr/local/lib/python3.12/ensurepip \
    && useradd --uid 10001 --no-create-home --home-dir /tmp deepdetect
COPY --from=build /opt/deepdetect /opt/deepdetect
COPY --from=code /code /opt/code
USER 10001:10001
WORKDIR /tmp
# The root file system may be read-only: whatever libraries like to write goes to /tmp.
ENV PATH=/opt/deepdetect/bin:$PATH PYTHONPATH=/opt/code PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["python", "-m", "trainer.train"]

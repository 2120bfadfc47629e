# The images of the worker, the API and the training job: `docker build --target worker|api|trainer .`
#
# Each has a virtual environment with the hashed packages it needs and our own, runs as a user without rights, and
# writes to /data and /tmp only, so that the rest of its file system may be read-only.

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# Our packages as a wheel.
FROM base AS wheel
WORKDIR /build
COPY requirements-build.lock ./
RUN pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY schemas schemas
COPY connectors connectors
COPY streams streams
COPY model_training model_training
COPY healthalliance healthalliance
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# What runs needs neither pip nor setuptools.
FROM base AS runtime-packages
COPY requirements-runtime.lock /build/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --require-hashes --only-binary :all: -r /build/requirements-runtime.lock
COPY --from=wheel /wheels /wheels
RUN /opt/venv/bin/pip install --no-deps --no-index /wheels/healthalliance-*.whl \
 && /opt/venv/bin/pip uninstall --yes setuptools pip

FROM base AS training-packages
COPY requirements-training.lock /build/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --require-hashes -r /build/requirements-training.lock
COPY --from=wheel /wheels /wheels
RUN /opt/venv/bin/pip install --no-deps --no-index /wheels/healthalliance-*.whl \
 && /opt/venv/bin/pip uninstall --yes setuptools pip

# The user has a number, by which Kubernetes sees that it is not root, and a name, which libraries ask for.
FROM base AS user
RUN groupadd --gid 10001 healthalliance \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin healthalliance \
 && install --directory --owner=10001 --group=10001 --mode=0750 /data
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data \
    METRICS_HOST=0.0.0.0 \
    API_HOST=0.0.0.0
WORKDIR /data
USER 10001:10001
ENTRYPOINT ["healthalliance"]

FROM user AS worker
COPY --from=runtime-packages /opt/venv /opt/venv
EXPOSE 8001
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8001/healthz', timeout=4)"]
CMD ["worker"]

# Its health is 503, and the container unhealthy, while there is no model or no database.
FROM user AS api
COPY --from=runtime-packages /opt/venv /opt/venv
EXPOSE 8000 8010
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["api"]

# It has no port: it trains, waits, and says in its log how it went.
FROM user AS trainer
COPY --from=training-packages /opt/venv /opt/venv
CMD ["train", "--every", "24h"]

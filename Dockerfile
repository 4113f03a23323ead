# The service as an image. See docs/deploy.md.
#
#   docker build --build-arg CTS_GIT_HASH=$(git rev-parse HEAD) -t cdmtaskservice .
#
# BASE may be any Debian or Ubuntu with Python 3.11 or newer, or without Python: then its own python3 is installed.
# CRANE_IMAGE is any image with crane at /ko-app/crane.

ARG BASE=docker.io/library/python:3.13-slim-bookworm
ARG CRANE_IMAGE=gcr.io/go-containerregistry/crane:v0.20.7


FROM ${CRANE_IMAGE} AS crane


FROM ${BASE} AS base

RUN set -eu; \
    wanted=""; \
    command -v python3 >/dev/null || wanted="python3"; \
    [ -s /etc/ssl/certs/ca-certificates.crt ] || wanted="$wanted ca-certificates"; \
    if [ -n "$wanted" ]; then \
        apt-get update -q; \
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $wanted; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log /var/log/alternatives.log; \
    fi; \
    python3 -c 'import sys; assert sys.version_info >= (3, 11), "BASE must have Python 3.11 or newer"'


FROM base AS build

ARG UV_VERSION=0.13.9

# A Debian python3 comes without what makes environments.
RUN set -eu; \
    if ! python3 -c 'import ensurepip' 2>/dev/null; then \
        apt-get update -q; \
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv; \
    fi; \
    python3 -m venv /uv; \
    /uv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet "uv==${UV_VERSION}"

ENV UV_PROJECT_ENVIRONMENT=/opt/cts \
    UV_PYTHON_DOWNLOADS=never \
    UV_PYTHON_PREFERENCE=only-system \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1

WORKDIR /src

# What uv.lock names first, since it changes less often than the code.
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --native-tls --locked --no-default-groups --extra server --no-install-project

COPY LICENSE README.md ./
COPY cdmtaskservice cdmtaskservice
RUN /uv/bin/uv sync --native-tls --locked --no-default-groups --extra server --no-editable && \
    rm -f /opt/cts/.lock


FROM base

ARG CTS_GIT_HASH=unknown
ARG CTS_VERSION=unknown

LABEL org.opencontainers.image.title="CDM Task Service" \
      org.opencontainers.image.description="Runs scientists' container jobs on remote compute" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${CTS_VERSION}" \
      org.opencontainers.image.revision="${CTS_GIT_HASH}"

RUN set -eu; \
    groupadd --system --gid 10001 cts; \
    useradd --system --uid 10001 --gid 10001 --no-log-init --home-dir /nonexistent --shell /usr/sbin/nologin cts

COPY --from=crane /ko-app/crane /usr/local/bin/crane
COPY --from=build /opt/cts /opt/cts
COPY config.toml.jinja /etc/cts/config.toml.jinja

# The root file system may be read-only: nothing is written but below /tmp.
ENV PATH=/opt/cts/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    KBCTS_SERVICE_HOST=0.0.0.0 \
    CTS_GIT_HASH=${CTS_GIT_HASH}

USER 10001:10001
WORKDIR /
EXPOSE 5000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-m", "cdmtaskservice.cli.alive"]

ENTRYPOINT ["cts"]
CMD ["serve", "--config", "/etc/cts/config.toml.jinja"]

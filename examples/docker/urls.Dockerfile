# No credentials in the build at all: a file of URLs that expire, made where the credentials are.
# The context has ci-modelcache.pyz and modelcache.lock.
#
#   ci-modelcache presign --expires 2h > urls.json
#   DOCKER_BUILDKIT=1 docker build --secret id=urls,src=urls.json -f urls.Dockerfile -t app .
ARG BASE=python:3.12-slim
ARG PYTHON=python:3.12-slim

FROM --platform=$BUILDPLATFORM ${PYTHON} AS models
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
COPY modelcache.lock /
RUN --mount=type=secret,id=urls,target=/run/secrets/urls \
    --mount=type=cache,target=/var/cache/ci-modelcache \
    ci-modelcache restore --locked --from-urls /run/secrets/urls --to /out/models

FROM ${BASE}
COPY --from=models /out/ /
ENV HF_HUB_OFFLINE=1

# For an image without Python, as those of CUDA are: a stage that has one restores the models.
# The context has ci-modelcache.pyz and modelcache.lock.
#
#   DOCKER_BUILDKIT=1 docker build --secret id=aws,src=$HOME/.aws/credentials -f no-python.Dockerfile -t app .
ARG BASE=nvidia/cuda:12.4.1-runtime-ubuntu22.04
ARG PYTHON=python:3.12-slim

FROM --platform=$BUILDPLATFORM ${PYTHON} AS models
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
COPY modelcache.lock /
ARG CI_MODELCACHE_STORE=s3://my-bucket/models
ARG CI_MODELCACHE_REGION=eu-west-1
ARG CI_MODELCACHE_ENDPOINT_URL
RUN --mount=type=secret,id=aws,target=/root/.aws/credentials \
    --mount=type=cache,target=/var/cache/ci-modelcache \
    ci-modelcache restore --locked --to /out/models

FROM ${BASE}
COPY --from=models /out/ /

# Models by name, for transformers and its kin: a stage restores them, and the image gets them alone, neither the program nor a secret.
# The context has ci-modelcache.pyz and modelcache.lock; as long as the lock is the same, nothing of this is built again.
#
#   DOCKER_BUILDKIT=1 docker build --secret id=aws,src=$HOME/.aws/credentials -f run.Dockerfile -t app .
ARG BASE=python:3.12-slim
ARG PYTHON=python:3.12-slim

# The builder's own platform: an image of several platforms has the models restored once.
FROM --platform=$BUILDPLATFORM ${PYTHON} AS models
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
COPY modelcache.lock /
# Settings of restore, as build arguments; one that is not given is no variable either. None of them is secret.
ARG CI_MODELCACHE_STORE=s3://my-bucket/models
ARG CI_MODELCACHE_REGION=eu-west-1
ARG CI_MODELCACHE_ENDPOINT_URL
RUN --mount=type=secret,id=aws,target=/root/.aws/credentials \
    --mount=type=cache,target=/var/cache/ci-modelcache \
    ci-modelcache restore --locked --deadline 15m --hub-cache /out/models

FROM ${BASE}
COPY --from=models /out/ /
# The same folder at run time as here, or else every model would be downloaded again.
ENV HF_HUB_CACHE=/models HF_HUB_OFFLINE=1

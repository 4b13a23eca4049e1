# One stage, for an image with Python in which the program may stay: the model lies in a folder.
# The context has ci-modelcache.pyz and modelcache.lock.
#
#   DOCKER_BUILDKIT=1 docker build --secret id=aws,src=$HOME/.aws/credentials -f direct.Dockerfile -t app .
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
# Old builders leave folders and files where they mount something, with the time of the build: here, and so not in the model's layer.
RUN --mount=type=cache,target=/var/cache/ci-modelcache mkdir -p /root/.aws && touch /root/.aws/credentials
COPY modelcache.lock /
ARG CI_MODELCACHE_STORE=s3://my-bucket/models
ARG CI_MODELCACHE_REGION=eu-west-1
ARG CI_MODELCACHE_ENDPOINT_URL
RUN --mount=type=secret,id=aws,target=/root/.aws/credentials --mount=type=cache,target=/var/cache/ci-modelcache \
    ci-modelcache restore --locked --to /models
ENV HF_HUB_OFFLINE=1

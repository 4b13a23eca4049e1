# No network and no secret in the build: the models are in the context already.
#
#   ci-modelcache docker context . && DOCKER_BUILDKIT=1 docker build -f context.Dockerfile -t app .
#
# or, without a copy of them on the disk and with a label that says what they are:
#
#   ci-modelcache docker build -t app -f context.Dockerfile .
ARG BASE=python:3.12-slim
FROM ${BASE}
# What lies below modelcache/ is what lies below / in the image.
COPY modelcache/ /
ENV HF_HUB_OFFLINE=1

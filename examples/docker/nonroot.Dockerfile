# Built and run by a user who is not root: the secret and the cache are lent to that user, and the files are theirs.
# The context has ci-modelcache.pyz and modelcache.lock.
#
#   DOCKER_BUILDKIT=1 docker build --secret id=aws,src=$HOME/.aws/credentials -f nonroot.Dockerfile -t app .
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
# A home, for libraries that write at run time; and what old builders leave of mounts, as in direct.Dockerfile. A cache belongs to whoever
# mounts it first: this one has a name of its own.
RUN --mount=type=cache,id=ci-modelcache-10001,target=/var/cache/ci-modelcache,uid=10001 \
    useradd -u 10001 -m app && install -d -o app -g app /home/app/.aws /models && \
    touch /home/app/.aws/credentials && touch -d @0 /models
COPY modelcache.lock /
USER 10001
ARG CI_MODELCACHE_STORE=s3://my-bucket/models
ARG CI_MODELCACHE_REGION=eu-west-1
ARG CI_MODELCACHE_ENDPOINT_URL
RUN --mount=type=secret,id=aws,target=/home/app/.aws/credentials,uid=10001 \
    --mount=type=cache,id=ci-modelcache-10001,target=/var/cache/ci-modelcache,uid=10001 \
    ci-modelcache restore --locked --hub-cache /models
ENV HF_HUB_CACHE=/models HF_HUB_OFFLINE=1

# Written by: ci-modelcache dockerfile --style run
# The context needs ci-modelcache.pyz and the lock, which is what this layer depends on. To build it:
#   DOCKER_BUILDKIT=1 docker build --secret id=aws,src=$HOME/.aws/credentials -t NAME .
FROM --platform=$BUILDPLATFORM python:3.12-slim AS models
COPY ci-modelcache.pyz /usr/local/bin/ci-modelcache
COPY modelcache.lock /modelcache.lock
RUN --mount=type=secret,id=aws,target=/run/secrets/aws \
    --mount=type=cache,target=/var/cache/ci-modelcache \
    AWS_SHARED_CREDENTIALS_FILE=/run/secrets/aws PYTHONDONTWRITEBYTECODE=1 \
    python3 /usr/local/bin/ci-modelcache restore --locked --lock-file /modelcache.lock --to /out/models \
    --store s3://bucket/models --region eu-west-1

FROM debian:12
COPY --from=models /out/ /
LABEL io.ci-modelcache.models='[\
{"commit":"0123456789abcdef0123456789abcdef01234567","digest":"cba11f1b0f000318114b54a74a5405c2f7f1dd3ac2d1c5e38700d62eb47a6eeb","layout":"plain","manifest":"80a13b527904cb1d0eabe907cf1bf24d5a35ef87b0ac1f5a65a346d496276b34","path":"/models/tiny/model","repo":"tiny/model","revision":"main","selection":"all","type":"model"}]'
ENV HF_HUB_OFFLINE=1

# Written by: ci-modelcache dockerfile --style copy
# The context needs the folder modelcache/, which this makes: ci-modelcache docker context .
# An engine with named contexts can take it from anywhere, with a line COPY --link --from=models / / and
#   docker build --build-context models=modelcache .
FROM debian:12
COPY modelcache/ /
LABEL io.ci-modelcache.models='[\
{"commit":"0123456789abcdef0123456789abcdef01234567","digest":"cba11f1b0f000318114b54a74a5405c2f7f1dd3ac2d1c5e38700d62eb47a6eeb","layout":"plain","manifest":"80a13b527904cb1d0eabe907cf1bf24d5a35ef87b0ac1f5a65a346d496276b34","path":"/models/tiny/model","repo":"tiny/model","revision":"main","selection":"all","type":"model"}]'
ENV HF_HUB_OFFLINE=1

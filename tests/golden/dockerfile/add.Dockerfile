# syntax=docker/dockerfile:1
# Written by: ci-modelcache dockerfile --style add
# The checksums decide what is downloaded again; the addresses do not. Presigned ones stay readable in this
# file and in what the build says of itself: let them expire soon.
FROM debian:12
ADD --link --chmod=644 --checksum=sha256:665939e0da5aa211ec9832ffe5dcba176d1bbac8a95c899c270ec29082853c51 https://hub.example/tiny/model/resolve/0123456789abcdef0123456789abcdef01234567/636f6e6669672e6a736f6e /models/tiny/model/config.json
ADD --link --chmod=644 --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 https://hub.example/tiny/model/resolve/0123456789abcdef0123456789abcdef01234567/656d7074792e747874 /models/tiny/model/empty.txt
ADD --link --chmod=644 --checksum=sha256:9bdd2b102a4a49a2f82bece21842c0a0b264afaa85c7ed69193e98591b8bdccb https://hub.example/tiny/model/resolve/0123456789abcdef0123456789abcdef01234567/6d6f64656c2e7361666574656e736f7273 /models/tiny/model/model.safetensors
ADD --link --chmod=644 --checksum=sha256:8c0cdcc073c4e57115e9968a329b0e8a2b7a2a29852ac0dbe8e4dc445ab3ed92 https://hub.example/tiny/model/resolve/0123456789abcdef0123456789abcdef01234567/6f6e6e782f6d6f64656c2e6f6e6e78 /models/tiny/model/onnx/model.onnx
ADD --link --chmod=755 --checksum=sha256:306c6ca7407560340797866e077e053627ad409277d1b9da58106fce4cf717cb https://hub.example/tiny/model/resolve/0123456789abcdef0123456789abcdef01234567/6f6e6e782f7175616e74697365642f72756e2e7368 /models/tiny/model/onnx/quantised/run.sh
LABEL io.ci-modelcache.models='[\
{"commit":"0123456789abcdef0123456789abcdef01234567","digest":"cba11f1b0f000318114b54a74a5405c2f7f1dd3ac2d1c5e38700d62eb47a6eeb","layout":"plain","manifest":"80a13b527904cb1d0eabe907cf1bf24d5a35ef87b0ac1f5a65a346d496276b34","path":"/models/tiny/model","repo":"tiny/model","revision":"main","selection":"all","type":"model"}]'
ENV HF_HUB_OFFLINE=1

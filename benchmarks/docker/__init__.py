"""
What it costs to bring a model into an image: the ways of ci-modelcache beside ``snapshot_download`` in a RUN step and beside a plain COPY.

Run it as root from the checkout, with the Python that has ci-modelcache and its ``test`` extra: ``python -m benchmarks.docker``.
"""

"""
What flaky, slow and lying mirrors cost: ci-modelcache beside ``huggingface_hub``, through the same faults, in the same run.

Run it from the checkout, with the Python that has ci-modelcache and its ``test`` extra: ``python -m benchmarks.mirrors``.
"""

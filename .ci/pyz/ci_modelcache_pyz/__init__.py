"""How ci-modelcache runs from a single file: what is in here is in that file alone, beside the program and its libraries."""

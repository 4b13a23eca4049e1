"""``python -m ci_modelcache`` is ``ci-modelcache``."""

from __future__ import annotations

import sys

from ci_modelcache.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

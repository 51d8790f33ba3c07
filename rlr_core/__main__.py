"""`python -m rlr_core` is `rlr`."""

import sys

from rlr_core.cli import main

sys.exit(main())

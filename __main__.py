"""`python -m fusecade`."""

import sys

from .cli import main

sys.exit(main())

"""`python -m rife`."""

import sys

from .cli import main
from .interrupts import ignore

status = main()
ignore()
sys.exit(status)

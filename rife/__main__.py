"""`python -m rife`."""

import sys

from .cli import main
from .interrupts import ignore_signals

try:
    import doctor_host  # beside this package where another program has it
except ImportError:
    doctor_host = None

status = main(host=doctor_host)
ignore_signals()
sys.exit(status)

"""`python custom_nodes/FOLDER ...` is the command line, from anywhere and whatever the folder is
called; also with ComfyUI's portable Python, which finds no modules in the working directory."""

import os
import signal
import sys

if __name__ == "__main__":
    # Ctrl-C ends quietly while torch is imported, which takes seconds; main has better then.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    import doctor_host
    from rife.cli import main
    from rife.interrupts import ignore_signals

    status = main(host=doctor_host)
    ignore_signals()
    sys.exit(status)

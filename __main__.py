"""`python custom_nodes/FOLDER ...` is the command line, from anywhere and whatever the folder is
called; also with ComfyUI's portable Python, which finds no modules in the working directory."""

import sys

from rife.cli import main

if __name__ == "__main__":
    sys.exit(main())

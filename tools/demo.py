"""Twice the frame rate for a real clip, and a picture of what that looks like, in `demo`.

Run by tools/dev.py, in its environment.
"""

import subprocess
import sys
import time
from pathlib import Path

from tools import assets, strip

FOLDER = Path("demo")


def main() -> int:
    start = time.monotonic()
    try:
        clip, model = assets.clip("bikes"), assets.weights("v4.0.safetensors")
    except assets.FetchError as error:
        sys.exit(str(error))
    FOLDER.mkdir(exist_ok=True)
    video, picture = FOLDER / "bikes-2x.mp4", FOLDER / "strip.png"

    command = ["-m", "rife", "interpolate", clip, video, "--model", model]
    command += ["--multiplier", "2", "--overwrite"]
    print("python", *command, flush=True)
    if subprocess.run([sys.executable, *command]).returncode != 0:
        sys.exit("The interpolation failed; see above.")
    strip.draw(clip, model, picture)

    print(f"\nThe clip at twice its frame rate: {video}")
    print(f"Ours beside the true frames:      {picture}")
    print(f"Done in {time.monotonic() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

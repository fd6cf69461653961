"""Runs a script of sd-scripts, whose models are as wide as Stable Diffusion's, on models that are narrower.

``launch.py WIDTHS SCRIPT ARGUMENTS...``: only constants of sd-scripts' structure are changed, before the script runs as it is.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path


def main() -> None:
    widths, script, *arguments = json.loads(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    sys.path.insert(0, str(script.parent))
    from library import original_unet, sdxl_original_unet

    if script.name.startswith("sdxl"):
        sdxl_original_unet.MODEL_CHANNELS = widths[0]
        sdxl_original_unet.TIME_EMBED_DIM = 4 * widths[0]
    else:
        original_unet.BLOCK_OUT_CHANNELS = tuple(widths)
        original_unet.TIMESTEP_INPUT_DIM, original_unet.TIME_EMBED_DIM = widths[0], 4 * widths[0]
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()

"""Writes sigpy.npz: ESPIRiT maps by SigPy of the problem. Run as ``python tests/references/make_sigpy.py``."""

from pathlib import Path

import numpy as np
import sigpy
import sigpy.mri
from problem import CALIBRATION, make


def main():
    _, _, kspace, _ = make()
    calibration = sigpy.mri.app.EspiritCalib(
        kspace, calib_width=CALIBRATION, thresh=0.02, crop=0.0, max_iter=100, show_pbar=False
    )
    np.savez_compressed(
        Path(__file__).with_name("sigpy.npz"),
        program=f"SigPy {sigpy.__version__}",
        maps=calibration.run()[:, ::2, ::2],
    )


if __name__ == "__main__":
    main()

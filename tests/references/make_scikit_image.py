"""Writes scikit_image.npz: figures of quality by scikit-image. Run as ``python tests/references/make_scikit_image.py``."""

from pathlib import Path

import numpy as np
import skimage
from problem import images
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity


def main():
    image, truth = images()
    np.savez_compressed(
        Path(__file__).with_name("scikit_image.npz"),
        program=f"scikit-image {skimage.__version__}",
        ssim=structural_similarity(truth, image, data_range=truth.max()),
        psnr=peak_signal_noise_ratio(truth, image, data_range=truth.max()),
        nrmse=normalized_root_mse(truth, image),
    )


if __name__ == "__main__":
    main()

"""Writes deep_jsense.npz: Deep J-Sense with seeded weights. Run as ``python tests/references/make_deep_jsense.py CLONE``.

``CLONE`` is a clone of github.com/utcsilab/deep-jsense, whose code is no package. It asks for a GPU and for SigPy, which it
needs for its data alone; here it runs on the CPU.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from problem import COILS, centred, make, weights

SETTINGS = {
    "mode": "DeepJSense",
    "logging": False,
    "verbose": False,
    "batch_size": 1,
    "img_channels": 8,
    "img_blocks": 4,
    "img_sep": False,
    "att_config": None,
    "use_img_net": True,
    "use_map_net": True,
    "map_init": "estimated",
    "img_init": "estimated",
    "mps_kernel_shape": [COILS, 15, 9],
    "l2lam_init": 0.01,
    "l2lam_train": True,
    "meta_unrolls_end": 2,
    "block1_max_iter": 4,
    "block2_max_iter": 3,
    "cg_eps": 1e-6,
}


def main(clone):
    sys.path.insert(0, clone)
    torch.Tensor.cuda = lambda tensor: tensor
    from models import MoDLDoubleUnroll

    module = MoDLDoubleUnroll(SimpleNamespace(**SETTINGS))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    seeded = {name: torch.from_numpy(value) for name, value in weights(shapes, 3).items()}
    module.load_state_dict(seeded | {name: torch.full((1,), 0.01) for name in shapes if "l2lam" in name})
    _, _, kspace, measured = make()
    kspace = kspace * measured / np.abs(kspace).max()
    images = centred(np.fft.ifft2, kspace)
    first = centred(np.fft.fft2, images / np.linalg.norm(images, axis=0))[:, 24 - 7 : 24 + 8, 24 - 4 : 24 + 5]
    data = {
        "ksp": torch.view_as_real(torch.from_numpy(kspace.astype(np.complex64)))[None],
        "mask": torch.from_numpy(np.broadcast_to(measured, kspace.shape[1:]).astype(np.float32))[None],
        "init_maps": torch.from_numpy(first.astype(np.complex64))[None],
    }
    with torch.inference_mode():
        _, kernels, predicted = module(data, SETTINGS["meta_unrolls_end"])
    version = ["git", "-C", clone, "log", "-1", "--format=%cs %h"]
    commit = subprocess.run(version, check=True, capture_output=True, text=True)
    np.savez_compressed(
        Path(__file__).with_name("deep_jsense.npz"),
        program=f"deep-jsense {commit.stdout.strip()}",
        names=list(shapes),
        shapes=[",".join(map(str, shape)) for shape in shapes.values()],
        kernels=kernels[0].numpy(),
        kspace=predicted[0, :, ::3, ::3].numpy(),
    )


if __name__ == "__main__":
    main(sys.argv[1])

"""Writes fastmri.npz: its VarNet and U-Net with seeded weights. Run as ``python tests/references/make_fastmri.py``."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fastmri.models import Unet, VarNet
from problem import images, make, weights

VARNET = {"num_cascades": 2, "sens_chans": 2, "sens_pools": 2, "chans": 4, "pools": 2}
UNET = {"in_chans": 1, "out_chans": 1, "chans": 4, "num_pool_layers": 2}


def with_weights(module, seed):
    """The module, and the names and shapes that its weights have."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    seeded = {name: torch.from_numpy(value) for name, value in weights(shapes, seed).items()}
    module.load_state_dict(seeded)
    return module.eval(), {"names": list(shapes), "shapes": [",".join(map(str, shape)) for shape in shapes.values()]}


def main():
    _, _, kspace, measured = make()
    varnet, of_varnet = with_weights(VarNet(**VARNET), 1)
    unet, of_unet = with_weights(Unet(**UNET), 2)
    # an odd width: the U-Nets pad
    masked = torch.view_as_real(torch.from_numpy((kspace * measured)[None, ..., 1:]))
    mask = torch.from_numpy(measured[1:])[None, None, None, :, None]
    image = torch.from_numpy(images()[0][None, None, :45, :38].astype(np.float32))
    with torch.inference_mode():
        np.savez_compressed(
            Path(__file__).with_name("fastmri.npz"),
            program=f"fastMRI {version('fastmri')}",
            varnet=varnet(masked, mask)[0].numpy(),
            unet=unet(image)[0, 0].numpy(),
            **{f"varnet_{key}": np.array(value) for key, value in of_varnet.items()},
            **{f"unet_{key}": np.array(value) for key, value in of_unet.items()},
        )


if __name__ == "__main__":
    main()

"""The networks by name, with what they take, what they return and where they come from."""

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ..scaling import Scaling
from .admm_csnet import AdmmCsNet
from .cinevn import CineVN
from .configuration import check_configuration
from .crnn import CrnnMri
from .dccnn import DcCnn, VsNet
from .deep_jsense import DeepJSense
from .dynamic import DynamicIstaNetPlus, LsNet, SlrNet, T2lrNet
from .image_unet import ComplexUnet, ImageUnet, MagnitudeUnet
from .ista_net import IstaNetPlus
from .jotlasnet import JotlasNet
from .mnet import Loupe, MNet
from .modl import Modl
from .primal_dual import PrimalDualNet
from .proximal import HcPgd
from .ridge_cine import RidgeCine
from .ridge_net import RidgeNet
from .varnet import ComplexVarNet, E2EVarNet
from .vn import VariationalNetwork

Task = Literal["2d", "2d+t", "image", "sampling"]
Output = Literal["magnitude", "complex", "real", "channels", "logits"]


@dataclass(frozen=True)
class Network:
    """A network of the literature.

    Parameters
    ----------
    make
        Its class.
    task
        ``2d`` slices, ``2d+t`` series, ``image`` to image, or ``sampling``: which lines to measure.
    inputs
        Names of its inputs, in order.
    output
        Kind of image that it returns, or ``logits`` of lines.
    paper
        Where it was published.
    scaling
        What the published weights expect their input to be divided by.
    configuration
        The published configuration, where it differs from the defaults of the class.
    readout_first
        Whether its weights are for the readout before the phase direction.
    undersampled
        Directions that its published form undersamples.
    loops_over_frames
        Whether its graph depends on the number of frames, which keeps it from ONNX.
    weights_of
        Network whose checkpoints are its own.
    equivariant
        Whether it normalises inside, whatever its configuration: k-space times a factor gives its image times that factor. All
        others need a scaling in front of them.
    phase_first
        What its configuration is instead where the phase direction comes before the readout, as in this project's training.
    """

    make: type[nn.Module]
    task: Task
    inputs: tuple[str, ...]
    output: Output
    paper: str
    scaling: Scaling = "none"
    configuration: dict[str, Any] = field(default_factory=dict)
    readout_first: bool = True
    undersampled: tuple[str, ...] = ("ky",)
    loops_over_frames: bool = False
    weights_of: str = ""
    equivariant: bool = False
    phase_first: dict[str, Any] = field(default_factory=dict)

    def check(self, **configuration: Any) -> None:
        """Make sure that a network can be in such a configuration.

        Raises
        ------
        OptionError
            Its class has no such argument, or does not take such a value.
        """
        check_configuration(self.make, configuration)

    def build(self, **configuration: Any) -> nn.Module:
        """Make the network in its published configuration, with these changes; errors are those of ``check``."""
        self.check(**configuration)
        return self.make(**{**self.configuration, **configuration})


_MAPS = ("kspace", "mask", "maps")
_NO_MAPS = ("kspace", "mask")
_BOTH = ("ky", "kx")

NETWORKS: dict[str, Network] = {
    "e2e-varnet": Network(
        E2EVarNet, "2d", _NO_MAPS, "magnitude", "Sriram et al., MICCAI 2020, arXiv:2004.06688", equivariant=True
    ),
    "varnet-complex": Network(
        ComplexVarNet,
        "2d",
        _MAPS,
        "complex",
        "Sriram et al.; its coil images combined with given coil maps",
        weights_of="e2e-varnet",
        equivariant=True,
    ),
    "modl": Network(
        Modl,
        "2d",
        _MAPS,
        "complex",
        "Aggarwal et al., IEEE TMI 2019, arXiv:1712.02862",
        undersampled=_BOTH,
    ),
    "modl-didn": Network(
        Modl,
        "2d",
        _MAPS,
        "complex",
        "Gautam et al., arXiv:2509.16846",
        scaling="zero-filled",
        configuration={
            "denoiser": "didn",
            "iterations": 6,
            "cg_iterations": 50,
            "weight": 100.0,
            "learn_weight": False,
            "warm_start": True,
        },
    ),
    "modl-unet": Network(
        Modl,
        "2d",
        _MAPS,
        "complex",
        "Aggarwal et al., IEEE TMI 2019; the denoiser of its knee weights is a U-Net",
        configuration={"denoiser": "unet"},
    ),
    "ridge-net": Network(
        RidgeNet,
        "2d",
        _MAPS,
        "complex",
        "this project's; after Hammernik et al., MRM 2018, and Goujon et al., arXiv:2308.10542",
        readout_first=False,
        equivariant=True,
    ),
    "ridge-cine": Network(
        RidgeCine,
        "2d+t",
        _MAPS,
        "complex",
        "this project's; ridge-net for series",
        readout_first=False,
        equivariant=True,
    ),
    "deep-jsense": Network(
        DeepJSense,
        "2d",
        _NO_MAPS,
        "magnitude",
        "Arvinte et al., MICCAI 2021, arXiv:2103.02087",
        scaling="calibration",
        # the longer side of the map kernels lies along the readout
        configuration={"kernel": (15, 9)},
        phase_first={"kernel": (9, 15)},
    ),
    "jotlasnet": Network(
        JotlasNet, "2d+t", _MAPS, "complex", "Zhang et al., Magn. Reson. Imaging 2025", scaling="kspace"
    ),
    "cinevn": Network(CineVN, "2d+t", _MAPS, "complex", "Vornehm et al., MRM 2025;93:138", equivariant=True),
    "crnn-mri": Network(
        CrnnMri,
        "2d+t",
        _MAPS,
        "complex",
        "Qin et al., IEEE TMI 2019, arXiv:1712.01751",
        scaling="zero-filled",
        readout_first=False,
        loops_over_frames=True,
    ),
    "dynamic-dccnn": Network(
        DcCnn,
        "2d+t",
        _MAPS,
        "complex",
        "Schlemper et al., IEEE TMI 2018, arXiv:1704.02422",
        configuration={"cascades": 10, "layers": 6, "chans": 16, "dims": 3, "bias": False},
    ),
    "dynamic-ista-net-plus": Network(
        DynamicIstaNetPlus, "2d+t", _MAPS, "complex", "Zhang, Ghanem, CVPR 2018; on series in JotlasNet's paper"
    ),
    "slr-net": Network(
        SlrNet, "2d+t", _MAPS, "complex", "Ke et al., IEEE TMI 2021, arXiv:2010.13677", scaling="kspace"
    ),
    "ls-net": Network(LsNet, "2d+t", _MAPS, "complex", "Huang et al., MRM 2021, arXiv:2010.14568", equivariant=True),
    "t2lr-net": Network(T2lrNet, "2d+t", _MAPS, "complex", "Zhang et al., Comput. Biol. Med. 2024", equivariant=True),
    "dccnn": Network(
        DcCnn, "2d", _MAPS, "complex", "Schlemper et al., IPMI 2017, arXiv:1703.00555", readout_first=False
    ),
    "vs-net": Network(
        VsNet, "2d", _MAPS, "complex", "Duan et al., MICCAI 2019, arXiv:1907.10033", scaling="coil-images"
    ),
    "ista-net-plus": Network(
        IstaNetPlus,
        "2d",
        _MAPS,
        "real",
        "Zhang, Ghanem, CVPR 2018, arXiv:1706.07929",
        scaling="zero-filled",
        undersampled=_BOTH,
    ),
    "vn": Network(
        VariationalNetwork,
        "2d",
        _MAPS,
        "complex",
        "Hammernik et al., MRM 2018, arXiv:1704.00447",
        scaling="zero-filled",
    ),
    "admm-csnet": Network(
        AdmmCsNet,
        "2d",
        _MAPS,
        "complex",
        "Yang et al., IEEE TPAMI 2020, arXiv:1705.06869",
        scaling="zero-filled",
        undersampled=_BOTH,
    ),
    "hc-pgd": Network(
        HcPgd, "2d", _MAPS, "complex", "Hosseini et al., IEEE JSTSP 2020, arXiv:1912.07197", "zero-filled"
    ),
    "pdhg-csnet": Network(
        PrimalDualNet,
        "2d",
        _MAPS,
        "complex",
        "Cheng et al., MICCAI 2019, arXiv:1908.02426",
        "zero-filled",
        {"learned": "primal"},
    ),
    "cp-net": Network(
        PrimalDualNet,
        "2d",
        _MAPS,
        "complex",
        "Cheng et al., MICCAI 2019, arXiv:1908.02426",
        "zero-filled",
        {"learned": "both"},
    ),
    "pd-net": Network(
        PrimalDualNet,
        "2d",
        _MAPS,
        "complex",
        "Cheng et al., MICCAI 2019, arXiv:1908.02426",
        "zero-filled",
        {"learned": "updates"},
    ),
    "unet": Network(MagnitudeUnet, "2d", _NO_MAPS, "magnitude", "Zbontar et al., arXiv:1811.08839", equivariant=True),
    "unet-complex": Network(ComplexUnet, "2d", _MAPS, "complex", "Gautam et al., arXiv:2509.16846", equivariant=True),
    "unet-image": Network(ImageUnet, "image", ("image",), "channels", "Zbontar et al., arXiv:1811.08839"),
    "mnet": Network(MNet, "sampling", ("kspace",), "logits", "Gautam et al., arXiv:2509.16846", scaling="kspace"),
    "loupe": Network(Loupe, "sampling", ("image",), "magnitude", "Bahadir et al., IEEE TCI 2020, arXiv:1907.11374"),
}

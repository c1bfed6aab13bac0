"""Prewhitening: decorrelate the channels' noise and scale it to unit variance."""

from dataclasses import replace
from typing import Annotated

import torch
from ismrmrd import ACQ_IS_NOISE_MEASUREMENT

from ..wire.items import Acquisition, Interruption, header_of
from .gadget import FromChain, Stream, gadget
from .kspace import Kspace
from .scan import Scan
from .whitener import Whitener


@gadget(early=lambda work, scan, _options: replace(work, whitener=Whitener(scan)))
def prewhiten(
    items: Stream,
    scan: Scan,
    *,
    pass_nonconformant_data: bool = True,
    whitener: Annotated[Whitener | None, FromChain] = None,
) -> Stream:
    """Whiten with the noise covariance of the scan that the header depends on, or else of this scan's noise readouts.

    ``data <- sqrt(2 t / t_noise * bandwidth) * inv(L) @ data`` with the covariance ``L L^H`` [coils, coils] (Pruessmann et al.,
    MRM 2001;46:638, appendix A), so that real and imaginary part have unit variance. ``t`` are the dwell times; where the
    factors come from stands in ``noise``.

    Parameters
    ----------
    items
        Noise readouts are used up; acquisitions and blocks are whitened.
    scan
        Its header names the noise scan; covariances are kept in its noise folder. Told, as the images are, of data that is not
        whitened though there is noise, and of noise that is not used.
    pass_nonconformant_data
        Whether data whose channels do not match the noise goes on as it is (reported), or is left out (reported).
    whitener
        The one that lines are whitened with before their block is complete; without it, the gadget makes its own.
    """
    whitener = whitener or Whitener(scan)
    try:
        for item in items:
            if isinstance(item, Acquisition) and item.is_flag_set(ACQ_IS_NOISE_MEASUREMENT):
                whitener.add_noise(item)
            elif isinstance(item, Acquisition | Kspace):
                notes = _whiten(item, whitener)
                if isinstance(item, Kspace):
                    item.notes |= notes
                if pass_nonconformant_data or not whitener.nonconformant:
                    yield item
            else:
                whitener.interrupted = whitener.interrupted or isinstance(item, Interruption)
                yield item
        whitener.keep()
    finally:
        whitener.close()


def _whiten(item: Acquisition | Kspace, whitener: Whitener) -> dict[str, str]:
    """Whiten an acquisition, or a block that is not whitened yet; return notes on its noise."""
    if isinstance(item, Acquisition):
        channels = item.active_channels
        matrix = whitener.matrix(channels, header_of(item).sample_time_us)
        if matrix is not None:
            item.data[:] = matrix @ item.data
    else:
        channels = item.data.shape[0]
        if not item.whitened:
            matrix = whitener.matrix(channels, item.central_header(0).sample_time_us)
            if matrix is not None:
                _whiten_block(item, torch.from_numpy(matrix).to(item.data.device))
    return whitener.settle(channels)


def _whiten_block(kspace: Kspace, matrix: torch.Tensor) -> None:
    kspace.data = torch.tensordot(matrix, kspace.data, dims=1)
    if kspace.calibration is not None:
        kspace.calibration = torch.tensordot(matrix, kspace.calibration, dims=1)

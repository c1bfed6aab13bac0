"""Answer a client's question about a stored noise scan."""

import numpy as np

from ..wire.errors import DataError
from ..wire.items import DependencyReport
from .gadget import Stream, gadget
from .noise_store import NoiseStore, system_of
from .scan import Scan


@gadget
def noise_summary(items: Stream, scan: Scan, *, noise_file: str) -> Stream:
    """Report smallest, largest and mean noise level, dwell time and channels of the noise scan ``noise_file``.

    Parameters
    ----------
    items
        Pass by.
    scan
        Its noise folder is searched.
    noise_file
        Measurement id of the noise scan; clients of Gadgetron put ``GadgetronNoiseCovarianceMatrix_`` in front.
    """
    yield from items
    identifier = noise_file.removeprefix("GadgetronNoiseCovarianceMatrix_")
    kept = []
    if scan.noise_folder:
        try:
            kept = NoiseStore(scan.noise_folder).find(identifier, system_of(scan))
        except DataError as error:
            scan.report("noise store", str(error))
    if not kept:
        yield DependencyReport({"status": "failed"})
        return
    stored = kept[0].covariance
    sigma = np.sqrt(np.diag(stored.matrix).real)
    yield DependencyReport(
        {
            "status": "success",
            "measurementID": identifier,
            "channels": str(sigma.size),
            "noise_dwell_time_us": str(stored.dwell_time),
            "min_sigma": str(sigma.min()),
            "max_sigma": str(sigma.max()),
            "mean_sigma": str(sigma.mean()),
        }
    )

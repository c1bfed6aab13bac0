"""The MRD header of a simulated scan."""

from xml.sax.saxutils import escape

import numpy as np

from .protocol import NOISE_BANDWIDTH, ScanProtocol


def header_xml(protocol: ScanProtocol) -> str:
    """Return the MRD header as XML."""
    rows = np.flatnonzero(protocol.measurable_lines())
    spaces = "".join(
        f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>"
        f"<fieldOfView_mm><x>{fov[0]}</x><y>{fov[1]}</y><z>{fov[2]}</z></fieldOfView_mm></{name}>"
        for name, (x, y, z), fov in (
            ("encodedSpace", (protocol.samples, protocol.lines, protocol.encoded_partitions), protocol.encoded_fov),
            ("reconSpace", protocol.image_matrix, protocol.image_fov),
        )
    )
    last = protocol.dynamics[-1]
    counters = {
        "kspace_encoding_step_1": (rows.size - 1, protocol.lines // 2 - int(rows[0])),
        "kspace_encoding_step_2": (protocol.encoded_partitions - 1, protocol.encoded_partitions // 2),
        "average": (protocol.averages - 1, 0),
        "slice": (protocol.slices - 1, 0),
        **{name: (last[name], 0) for name in ("contrast", "phase", "repetition", "set")},
        "segment": (0, 0),
    }
    limits = "".join(
        f"<{name}><minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center></{name}>"
        for name, (maximum, center) in counters.items()
    )
    parallel = ""
    if protocol.acceleration > 1:
        mode = "other" if protocol.calibration == "none" else protocol.calibration
        interleaving = (
            f"<interleavingDimension>{protocol.frame_counter}</interleavingDimension>" if mode == "interleaved" else ""
        )
        parallel = (
            f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{protocol.acceleration}</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
            f"<calibrationMode>{mode}</calibrationMode>{interleaving}</parallelImaging>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<measurementInformation><measurementID>{escape(protocol.measurement_id)}</measurementID>"
        f"<patientPosition>{protocol.patient_position}</patientPosition>"
        f"<protocolName>{protocol.phantom}</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemVendor>Isocenter</systemVendor><systemModel>simulator</systemModel>"
        f"<systemFieldStrength_T>3.0</systemFieldStrength_T><relativeReceiverNoiseBandwidth>{NOISE_BANDWIDTH}"
        f"</relativeReceiverNoiseBandwidth><receiverChannels>{protocol.coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{spaces}<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory>{parallel}</encoding>"
        f"<sequenceParameters><TR>{protocol.repetition_time}</TR></sequenceParameters></ismrmrdHeader>"
    )

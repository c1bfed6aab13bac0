"""The MRD header of a simulated scan."""

import numpy as np

from .protocol import NOISE_BANDWIDTH, ScanProtocol


def header_xml(protocol: ScanProtocol) -> str:
    """Return the MRD header as XML."""
    rows = np.flatnonzero(protocol.measurable_lines())
    depth = protocol.partitions * protocol.slice_thickness if protocol.partitions > 1 else protocol.slice_thickness
    spaces = "".join(
        f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>{protocol.partitions}</z></matrixSize>"
        f"<fieldOfView_mm><x>{fov_x}</x><y>{fov_y}</y><z>{depth}</z></fieldOfView_mm></{name}>"
        for name, x, y, fov_x, fov_y in (
            (
                "encodedSpace",
                protocol.samples,
                protocol.lines,
                protocol.fov * protocol.oversampling,
                protocol.fov * protocol.lines / protocol.matrix,
            ),
            ("reconSpace", protocol.matrix, protocol.matrix, protocol.fov, protocol.fov),
        )
    )
    counters = {
        "kspace_encoding_step_1": (rows.size - 1, protocol.lines // 2 - int(rows[0])),
        "kspace_encoding_step_2": (protocol.partitions - 1, protocol.partitions // 2),
        "average": (protocol.averages - 1, 0),
        "slice": (protocol.slices - 1, 0),
        "contrast": (0, 0),
        "phase": (protocol.frames - 1 if protocol.frame_counter == "phase" else 0, 0),
        "repetition": (protocol.frames - 1 if protocol.frame_counter == "repetition" else 0, 0),
        "set": (0, 0),
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
        f"<measurementInformation><measurementID>{protocol.measurement_id}</measurementID><patientPosition>HFS</patientPosition>"
        f"<protocolName>{protocol.phantom}</protocolName></measurementInformation>"
        "<acquisitionSystemInformation><systemVendor>Isocenter</systemVendor><systemModel>simulator</systemModel>"
        f"<systemFieldStrength_T>3.0</systemFieldStrength_T><relativeReceiverNoiseBandwidth>{NOISE_BANDWIDTH}"
        f"</relativeReceiverNoiseBandwidth><receiverChannels>{protocol.coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{spaces}<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory>{parallel}</encoding>"
        f"<sequenceParameters><TR>{protocol.repetition_time}</TR></sequenceParameters></ismrmrdHeader>"
    )

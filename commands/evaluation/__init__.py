"""Compare reconstructions of undersampled scans whose truth is known, by the metrics of `models.metrics`, and images.

Scans are fully sampled slices, simulated from the part of the template that no training sees, or from files; where one of the
bundles takes series, they are series, simulated hearts or those of files. Each is undersampled in every way asked for, gets coil
maps from its calibration lines, and is reconstructed by every method. Slices of one file are judged together, as a volume.
"""

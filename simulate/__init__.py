"""Made-up scans with exact k-space: phantoms, coils, sampling, noise."""

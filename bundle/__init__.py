"""What a bundle is: its manifest, its folder on disk, the names of its axes. What the host and the export share."""

"""`isocenter view`: what a file is, as text and picture: a scan, images, or a bundle."""

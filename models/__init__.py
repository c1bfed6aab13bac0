"""Reconstruction as torch modules: building blocks, classical methods, networks."""

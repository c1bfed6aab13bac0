"""Isocenter: inline MRI reconstruction."""

"""Gadgetron XML pipelines and the loader that reads them."""

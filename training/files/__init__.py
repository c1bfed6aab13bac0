"""Fully sampled scans from files: layouts by adapters, the checks that all of them pass, and the cache."""

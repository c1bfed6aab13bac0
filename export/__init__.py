"""From a torch module to a bundle that the service can run without it."""

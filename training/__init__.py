"""Training of the networks, by recipes in YAML (extra ``train``)."""

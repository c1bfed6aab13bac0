"""Names of the bundles that come with Isocenter, told without importing what builds them."""

NAMES: tuple[str, ...] = (
    *("rss", "combine", "sense"),
    *("ridge", "tv", "varnet-brain", "modl-brain"),
    *("jsense", "l1-wavelet", "ridge-cine"),
)
"""In the order in which a service builds them: what is built in a moment, what `network.xml` needs, what takes longest."""

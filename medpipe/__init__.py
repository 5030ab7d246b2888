"""medpipe turns clinical documents into tables people can rely on."""

__version__ = "0.1.0"

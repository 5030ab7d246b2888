"""Contracts, Parquet in and out, atomic publish, manifests: the only room that knows files of ours."""

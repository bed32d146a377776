"""Shards, receipts, manifests and the bottleneck cache on disk."""

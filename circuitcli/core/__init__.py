"""Tensors and records in, tensors and records out: no disk, no network, no printing."""

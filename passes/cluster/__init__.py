"""Weights that share few values."""

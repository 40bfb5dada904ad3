"""Generators of synthetic stores, by kind."""

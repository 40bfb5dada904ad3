"""Whole-image predictions from a trained model."""

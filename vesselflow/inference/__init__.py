"""Whole-image probabilities from a trained model."""

"""From runs to long tables."""

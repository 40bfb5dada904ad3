"""What a space and an experiment are: models, YAML, overrides, profiles, fingerprints."""

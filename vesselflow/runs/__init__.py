"""What a run, an evaluation, a domain and an objective are: specs and their names. No Ray."""

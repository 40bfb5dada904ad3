"""Points, runs, slots, study and tuner: everything that talks to Ray."""

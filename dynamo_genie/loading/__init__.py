"""Models filled with weights that the daemon has in files: `load_weights`."""

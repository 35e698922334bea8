"""Models that a daemon has in safetensors files."""

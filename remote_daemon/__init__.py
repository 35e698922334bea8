"""The daemon: a supervisor that never imports torch, and workers that own a device."""

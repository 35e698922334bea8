"""Write tracking: which pages of a tensor's memory were written since the last scan."""

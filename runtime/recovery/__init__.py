"""What a session has asked of its worker, as far as something alive depends on it: enough to ask another one again."""

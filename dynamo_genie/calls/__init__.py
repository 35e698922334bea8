"""A compiled graph and its calls: what is bound, what travels, what comes back."""

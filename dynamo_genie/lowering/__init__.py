"""From an ATen graph to a portable Program: arguments, decompositions, and what is known of inputs and outputs."""

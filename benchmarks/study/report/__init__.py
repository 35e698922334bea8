"""Tables and plots of the study, made from its documents alone: the same document gives the same bytes."""

"""The same decode work by way of other systems, so that what a step costs beside computing can be compared."""

"""Public research data sets as the events that a hospital would have published."""

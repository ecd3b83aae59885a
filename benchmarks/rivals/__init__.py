"""The contestants, one module per library."""

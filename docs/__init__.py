"""The manual's pages, and what makes those of their parts that no hand writes."""

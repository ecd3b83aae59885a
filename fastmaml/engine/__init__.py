"""The engine's side: the compiled module, plans, memory, and what is kept between calls."""

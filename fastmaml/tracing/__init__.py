"""From a module to a network of the engine's ops."""

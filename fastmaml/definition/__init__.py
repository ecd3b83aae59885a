"""The paper's algorithm in PyTorch: what runs where the engine cannot."""

"""The layers around a memory: the only place with trainable parameters."""

"""Memory algorithm: how does the memory learn, given the gradient of its inner loss?"""

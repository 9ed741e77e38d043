"""KV memory as the head and the nodes think of it. No tokens, no tensors: hashes and counts."""

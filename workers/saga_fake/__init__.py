"""An engine double: the HTTP surface, KV events and metrics of a vLLM server, without a model, torch or a GPU."""

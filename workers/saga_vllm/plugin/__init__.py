"""What runs inside vLLM's own processes: session control of the KV pool.

`connector` is loaded by the engine (`--kv-transfer-config`), `front` by its HTTP server (`--middleware`). Both are
vLLM's official ways in. What else is used of vLLM stands in `hooks`, and is checked before anything is touched: where
something has changed, the engine serves as it came, and says that it takes no worths.
"""

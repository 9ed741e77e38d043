"""The tokenizer of saga's own small models: byte-level BPE, 4096 tokens, with a chat template that knows tools.

It ships ready-made, because one that is trained at install time differs from one Python release to the next, and
with it every token count of a replay. Made by `python -m saga_vllm.tokenizer.train` from the `*.py` files of
CPython 3.11's standard library (the first 120 by name).
"""

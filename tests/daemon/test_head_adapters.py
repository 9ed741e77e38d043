"""Adapters of a model at the head's own port: listed as vLLM lists them, and served under their own names."""

from pathlib import Path

from head_rig import node, running_head, until
from msgspec.structs import replace

from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer


async def test_an_adapter_is_listed_and_answers_under_its_name(tmp_path: Path) -> None:
    double = FakeServer(FakeConfig(models=("m",), adapters=("lora-a",), api_key="k", speed=100.0))
    async with double, running_head(tmp_path) as head, node(head, double.url) as rig:
        key = head.access.api_key
        rig.workers = [replace(worker, adapters=("lora-a",)) for worker in rig.workers]
        await rig.report()
        names: list[str] = []

        async def listed() -> list[dict]:
            _, models = await head.call("GET", "/v1/models", key=key)
            names[:] = [card["id"] for card in models["data"]]
            return models["data"]

        for _ in range(100):
            cards = await listed()
            if len(names) == 2:
                break
        await until(lambda: names == ["lora-a", "m"], "both names")
        assert (cards[0]["parent"], cards[0]["max_model_len"]) == ("m", 4096)
        assert "parent" not in cards[1]
        status, _ = await head.call("GET", "/v1/models/lora-a", key=key)
        assert status == 200

        body = {"model": "lora-a", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
        status, answer = await head.call("POST", "/v1/chat/completions", body, key=key)
        assert (status, answer["model"]) == (200, "lora-a")
        status, answer = await head.call("POST", "/v1/chat/completions", body | {"model": "lora-b"}, key=key)
        assert status == 404
        assert "have: lora-a, m" in answer["error"]["message"]

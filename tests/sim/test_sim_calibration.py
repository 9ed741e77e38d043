"""The fit of a cost table: it finds the table that made the measurements, and says how well it fits."""

import json
from dataclasses import replace
from random import Random

import pytest

from saga_core.costs import CostTable
from saga_core.errors import ClusterError, UserError
from saga_sim.calibration import Probe, fit
from saga_sim.costs import AGENT_CPU, PRESETS, preset, write
from saga_sim.engine import Engine
from saga_sim.requests import Request
from saga_sim.streams import Stream

TABLE = replace(AGENT_CPU.costs, call_s=0.011, prompt_token_s=1.1e-5)
SHAPE = AGENT_CPU.shape
STEP_TOKENS = SHAPE.step_tokens
WAY_S = 0.004


class Measured:
    """An engine of that table, asked as the prober asks real ones."""

    def __init__(self, table=TABLE, noise=lambda: 1.0):
        self.engine, self.noise, self.now = Engine(SHAPE, table, self._done), noise, 0.0
        self.ended, self.keys = {}, 0

    def _done(self, request, at):
        self.ended[request.key] = at

    def submit(self, stream, prompt, output):
        self.keys += 1
        request = Request(key=self.keys, stream=stream, prompt_tokens=prompt, output_tokens=output)
        self.engine.submit(request, self.now)
        return request

    def until(self, over):
        while not over():
            self.now = self.engine.next_at
            self.engine.advance(self.now)

    def probe(self, request, **more):
        """What a caller sees of a request that is done."""
        ttft = (request.first_at - request.arrived_at + WAY_S) * self.noise()
        decoded = (self.ended[request.key] - request.first_at) * self.noise()
        return Probe(
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            output_tokens=request.output_tokens,
            ttft_s=ttft,
            duration_s=ttft + decoded,
            **more,
        )

    def call(self, stream, prompt, output):
        request = self.submit(stream, prompt, output)
        self.until(lambda: request.key in self.ended)
        return self.probe(request)

    def batch(self, count, prompt):
        """Calls that decode together; their prompts are cached."""
        streams = [Stream() for _ in range(count)]
        for stream in streams:
            self.call(stream, prompt, 2)
        requests = [self.submit(stream, prompt, 100) for stream in streams]
        self.until(lambda: all(request.key in self.ended for request in requests))
        return self.probe(requests[0], batch=count)

    def visited(self, prompt, visits=4):
        """A call that decodes while others come in."""
        host, guest = Stream(), Stream()
        for stream in (host, guest):
            self.call(stream, prompt, 2)
        hosted = self.submit(host, prompt, 300)
        self.until(lambda: hosted.first_at is not None)
        guests = tuple(self.call(guest, prompt, 2) for _ in range(visits))
        assert hosted.key not in self.ended
        self.until(lambda: hosted.key in self.ended)
        return self.probe(hosted, visits=guests)


def probes(table=TABLE, noise=lambda: 1.0):
    """What an engine of that table shows."""
    engine, found = Measured(table, noise), []
    for tokens in (250, 500, 1000, 4000, 7000):
        stream = Stream()
        found.append(engine.call(stream, tokens, 48))
        found.append(engine.call(stream, tokens + 200, 48))
    found += [engine.batch(count, tokens) for count in (2, 4, 8) for tokens in (250, 2000)]
    return found + [engine.visited(tokens) for tokens in (1000, 6000)]


def test_the_table_that_made_the_measurements_is_found():
    found = fit(probes(), STEP_TOKENS)
    for name in CostTable.__slots__:
        assert getattr(found.costs, name) == pytest.approx(getattr(TABLE, name), rel=0.02), name
    assert found.way_s == pytest.approx(WAY_S, rel=0.02)
    assert found.mean_error < 1e-3


def test_noise_shows_in_the_residuals_and_hardly_in_the_table():
    random = Random(1)
    found = fit(probes(noise=lambda: random.uniform(0.95, 1.05)), STEP_TOKENS)
    assert 0.002 < found.mean_error < 0.05
    assert found.costs.attention_token2_s == pytest.approx(TABLE.attention_token2_s, rel=0.15)
    assert {r.what for r in found.residuals} == {"prefill", "decode", "visited"}


def test_no_coefficient_is_below_zero():
    """An engine whose contexts cost nothing, measured with noise, must not come out as one that gains by them."""
    table = CostTable(
        step_s=0.01, prefill_token_s=1e-4, attention_token2_s=0.0, decode_s=1e-3, context_token_s=0.0
    )
    for seed in range(10):
        random = Random(seed)
        found = fit(probes(table=table, noise=lambda: random.uniform(0.9, 1.1)), STEP_TOKENS)  # noqa: B023
        assert min(found.costs.step_s, found.costs.attention_token2_s, found.costs.context_token_s) >= 0
        assert found.way_s >= 0


def test_too_few_measurements_are_refused():
    with pytest.raises(ClusterError, match=r"do not tell|too much alike"):
        fit([Measured().call(Stream(), 1000, 48)] * 5, STEP_TOKENS)
    with pytest.raises(ClusterError):
        fit([], STEP_TOKENS)


def test_a_written_preset_reads_back(tmp_path):
    path = tmp_path / "mine.json"
    write(path, AGENT_CPU)
    assert preset(str(path)) == AGENT_CPU


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "missing required field"),
        ("[1]", "Expected"),
        ("not json", "malformed"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_preset_is_refused_with_its_file(tmp_path, text, why):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"mine\.json: .*{why}"):
        preset(str(path))


def test_a_preset_whose_context_does_not_fit_its_pool_is_refused(tmp_path):
    path = tmp_path / "mine.json"
    write(path, AGENT_CPU)
    data = json.loads(path.read_bytes())
    data["shape"]["blocks"] = 3
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not fit a pool of 96"):
        preset(str(path))


def test_an_unknown_preset_is_named_with_the_valid_ones():
    with pytest.raises(UserError, match="llama3-70b-a100"):
        preset("llama3-70b")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_it_comes_from(name):
    assert PRESETS[name].source
    assert PRESETS[name].name == name

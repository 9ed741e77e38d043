"""The fit of a cost table: it finds the table that made the measurements, and says how well it fits."""

import json
from random import Random

import pytest

from saga_core.costs import CostTable
from saga_core.errors import ClusterError, UserError
from saga_sim.calibration import Probe, fit
from saga_sim.costs import AGENT_CPU, PRESETS, preset, write

TABLE = AGENT_CPU.costs
STEP_TOKENS = 2048


def measured(prompt, cached, output, batch=1, *, table=TABLE, way_s=0.004, noise=lambda: 1.0):
    """What an engine of that table would have shown."""
    fresh = prompt - cached
    prefill = -(-fresh // STEP_TOKENS) * table.step_s + table.chunk_s(cached, fresh)
    context = batch * (prompt + output / 2)
    token = table.step_s + table.decode_s * batch + table.context_token_s * context
    ttft = (prefill + way_s) * noise()
    return Probe(
        prompt_tokens=prompt,
        cached_tokens=cached,
        output_tokens=output,
        ttft_s=ttft,
        duration_s=ttft + (output - 1) * token * noise(),
        batch=batch,
    )


def probes(**more):
    plan = [(n, c, 48, 1) for n in (250, 1000, 4000, 8000) for c in (0, n - 200)]
    plan += [(n, n - 10, 100, b) for n in (250, 2000) for b in (2, 4, 8)]
    return [measured(*one, **more) for one in plan]


def test_the_table_that_made_the_measurements_is_found():
    found = fit(probes(), STEP_TOKENS)
    for name in ("step_s", "prefill_token_s", "attention_token2_s", "decode_s", "context_token_s"):
        assert getattr(found.costs, name) == pytest.approx(getattr(TABLE, name), rel=1e-6), name
    assert found.way_s == pytest.approx(0.004)
    assert found.mean_error < 1e-6


def test_noise_shows_in_the_residuals_and_hardly_in_the_table():
    random = Random(1)
    found = fit(probes(noise=lambda: random.uniform(0.95, 1.05)), STEP_TOKENS)
    assert 0.002 < found.mean_error < 0.05
    assert found.costs.attention_token2_s == pytest.approx(TABLE.attention_token2_s, rel=0.15)
    assert {r.what for r in found.residuals} == {"prefill", "decode"}


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
        fit([measured(1000, 0, 48)] * 5, STEP_TOKENS)
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

"""The harness of benchmarks: its gate, its contenders, and the table of a race."""

import pytest
import torch

from bench import contenders, report, side_by_side
from bench.cases import CASES, FORWARD, LINEAR, TRAINING, Bar, Case
from bench.contenders import MEASURES, WrongResult, build, names
from bench.gate import Gate

LAYER = Case("7x3x4", 7, (3, 4), adaptive=True, bars=(Bar(TRAINING, LINEAR, 1.0, 1.0),))
NETWORK = Case("7x3x4x2", 7, (3, 4, 2))


@pytest.mark.parametrize("case", [LAYER, NETWORK, LAYER._replace(dtype=torch.float64)])
def test_every_contender_runs_every_measure(case):
    running, left_out = build(case, with_peers=True)
    assert {*running, *left_out} == {*names(case)} and next(iter(running)) == case.ours
    assert running["Cox-de Boor + F.linear (efficient-kan)"].exact and running["Gaussians (FastKAN)"].error is None
    for contender in running.values():
        before = [p.detach().clone() for p in contender.module.parameters()]
        for prepare in MEASURES.values():
            prepare(contender)()
        assert all(map(torch.equal, before, contender.module.parameters()))  # else later races are of other numbers


@pytest.mark.parametrize("wrong", ["y", "gx", "gs of layer 0", "gb of layer 1"])
def test_the_gate_refuses_wrong_numbers(wrong, monkeypatch):
    right = contenders.results

    def results(peer, x, g):
        found = list(right(peer, x, g))
        found[["y", "gx", "gs of layer 0", "gb of layer 0", "gs of layer 1", "gb of layer 1"].index(wrong)] *= 1.001
        return tuple(found)

    monkeypatch.setattr(contenders, "results", results)
    with pytest.raises(WrongResult, match=f"7x3x4x2: KAN is wrong: {wrong} has"):
        build(NETWORK, with_peers=False)


def test_chains_in_float64_have_no_yardstick():
    _, layers = contenders.ours(NETWORK._replace(dtype=torch.float64), adaptive=False)
    x, g = contenders.inputs(7, 3, 2, torch.float64)
    with pytest.raises(ValueError, match="2 layers in float64"):
        Gate(layers, x, g)


def test_an_equal_mlp_has_as_many_parameters():
    for case in (case for case in CASES if len(case.widths) > 2):
        ours, _ = contenders.ours(case, adaptive=False)
        sizes = [sum(p.numel() for p in module.parameters()) for module in (ours, contenders.equal_mlp(case))]
        assert sizes[0] <= sizes[1] < 1.2 * sizes[0]


def test_a_race_has_times_ratios_and_claims():
    result = side_by_side.race(LAYER, rounds=2, with_peers=False)
    assert result["ratios"][FORWARD].keys() == result["times"][FORWARD].keys() - {"KANLinear"}
    assert [claim["against"] for claim in result["claims"]] == [LINEAR]
    assert any("| uniform grid" in line for line in report.times(result))

"""The report on a formula: errors on samples, edges that cost most, samples without a value."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kan_fast import KAN
from tests.helpers.formulas import fixed, network, samples

pytestmark = pytest.mark.usefixtures("double")


def test_report_of_a_symbolic_network():
    model, points = network(), samples()
    label = model(points).detach() + 0.1
    report = model.formula_report(points, label)
    for output in report.outputs:
        assert output.formula.rmse == pytest.approx(0.1) and output.model.rmse == pytest.approx(0.1)
        assert output.formula.r2 == pytest.approx(output.model.r2) and output.formula.broken == 0
        assert output.complexity == output.expression.count_ops()
    deviation = label[:, 0].var(correction=0).item()
    assert report.outputs[0].model.r2 == pytest.approx(1 - 0.01 / deviation)
    assert report.samples == 300 and len(report.edges) == 8 + 6 and not report.splines
    text = str(report)
    assert "formula RMSE" in text and "y_1 = " in text and "what it cost to fix edges" in text


def test_report_of_rounded_formulas():
    model, points = network(), samples()
    output = model.formula_report(points, model(points).detach(), digits=1).outputs[0]
    assert output.model.rmse < 1e-9 < 1e-3 < output.formula.rmse


def test_report_names_the_edges_that_cost_most():
    model, points = KAN([2, 3, 1], seed=0), samples()
    label = torch.exp(torch.sin(3 * points[:, :1]) + points[:, 1:] ** 2)
    model.fit((points, label), steps=20, progress=False)
    before = model.formula_report(points, label)
    assert before.outputs[0].formula is None and len(before.splines) == 9 and "no formula: 9 edges" in str(before)
    for edge in ((0, 0, 0), (0, 1, 2), (1, 2, 0)):
        layer = model.layers[edge[0]]
        layer.fix(edge[2], edge[1], "x", (1, 0, 0.1 if edge[0] else 3.0, 0))
    report = model.formula_report(points, label)
    costs = [edge.cost for edge in report.edges]
    assert costs == sorted(costs, reverse=True) and len(costs) == 3
    for removed in report.edges:
        other = copy.deepcopy(model)
        other.layers[removed.edge.layer].unfix(*removed.edge.place)
        rmse = (other(points) - label).square().mean().sqrt().item()
        assert removed.cost == pytest.approx(report.outputs[0].model.rmse - rmse)


def test_report_counts_what_is_not_finite():
    model, points = KAN([2, 1, 1]), samples()
    model.layers[0].fix_many([(0, 0), (0, 1)], ["x", "log"], torch.tensor([[1.0, 0, 1, 0], [1, 0.5, 1, 0]]))
    model.layers[1].fix(0, 0, "sqrt", (1, 2, 1, 0))
    broken = int((points[:, 1] < -0.5).sum())
    roots = points[:, 0] + (points[:, 1] + 0.5).log() + 2 < 0
    report = model.formula_report(points, torch.zeros(300, 1))
    counts = {edge.function: edge.broken for edge in report.edges}
    assert counts == {"x": 0, "log": broken, "sqrt": int(roots.sum())}
    assert report.outputs[0].formula.broken == report.outputs[0].model.broken == broken + int(roots.sum())
    assert math.isfinite(report.outputs[0].formula.rmse)
    assert f"edge (0, 1, 0), log, for {broken} of them" in str(report)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_errors_of_labels_whose_squares_do_not_fit(size):
    model, points = fixed("sin", (1.0, 0, size, 0)), samples(columns=1)
    label = model(points).detach()
    accuracy = model.formula_report(points, label * 1.1).outputs[0].formula
    assert accuracy.rmse == pytest.approx((label / size).square().mean().sqrt().item() * size / 10)
    assert 0.9 < accuracy.r2 < 1


def test_report_where_nothing_is_finite():
    model = fixed("log", (1.0, -5, 1, 0))
    report = model.formula_report(samples(columns=1), torch.zeros(300, 1))
    assert report.outputs[0].formula.broken == 300 and math.isnan(report.outputs[0].formula.rmse)
    str(report)


def test_a_pole_is_counted():
    model = fixed("1/x", (1.0, 0, 1, 0))
    report = model.formula_report(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [0.5]]))
    assert report.outputs[0].formula.broken == 1 and report.outputs[0].formula.rmse == pytest.approx(0)


def test_report_with_normalizers():
    model, points = network(), samples()
    scale = ([0.3, -1], [2.0, 0.5])
    raw = points * torch.tensor(scale[1]) + torch.tensor(scale[0])
    label = model(points).detach() * 2 + 1
    report = model.formula_report(raw, label, normalizer=scale, output_normalizer=(1.0, 2.0))
    assert all(o.formula.rmse < 1e-8 and o.model.rmse < 1e-8 for o in report.outputs)


def test_report_checks_shapes():
    for label in (torch.zeros(300), torch.zeros(300, 3), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"labels \(n, 2\), got"):
            network().formula_report(samples(), label)


def test_labels_of_one_output_can_be_a_vector():
    model, points = KAN([2, 1], seed=0), samples()
    model.layers[0].fix_many([(0, 0), (0, 1)], ["sin", "x^2"])
    label = model(points).detach() + 0.1
    assert str(model.formula_report(points, label[:, 0])) == str(model.formula_report(points, label))

"""Grids in loops of one's own: coverage, moves and refinement of all layers, and what optimisers forget."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

from kan_fast import KAN, GridUpdates, KANLinear, coverage, refine_grids, update_grids
from kan_fast.nn import NotFinite
from kan_fast.optim import LBFGS
from tests.helpers.fitting import mse, target


def module(**options):
    torch.manual_seed(0)
    options = {"dtype": torch.float64, **options}
    norm = nn.LayerNorm(6, dtype=options["dtype"])
    return nn.Sequential(KANLinear(2, 6, **options), norm, nn.ModuleDict({"head": KANLinear(6, 1, **options)})["head"])


def data(n=300, scale=1.0, dtype=torch.float64):
    x = scale * torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return x, target((x / scale).tanh())


def step(net, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = mse(net(x), y)
        loss.backward()
        return loss

    return optimizer.step(closure)


def state(net):
    return {name: t.clone() for name, t in net.state_dict().items()}


def same(first, second):
    return all(torch.equal(t, second[name]) for name, t in first.items())


# Coverage


def test_coverage_of_all_layers_prints_as_a_table():
    net, (x, _) = module(), data(scale=2)
    shares = coverage(net, x)
    assert torch.equal(shares["0"], (x.abs() > 1).sum(0) / len(x))
    assert shares["2"].shape == (6,)
    shares["2"] = torch.tensor([0.0, 0.5, 0.1])
    shares["nothing"] = torch.empty(0)
    assert repr(shares).splitlines()[0].split() == ["layer", "outside", "(mean)", "outside", "(most)", "in", "feature"]
    assert repr(shares).splitlines()[2].split() == ["2", "20.0%", "50.0%", "1"]
    assert "nothing" in repr(shares)
    assert type(pickle.loads(pickle.dumps(shares))) is type(shares)
    assert torch.equal(coverage(net[0], x)[""], (x.abs() > 1).sum(0) / len(x))


# Moves


def test_all_grids_move_to_the_samples_that_reached_them_before_and_functions_stay():
    net, (x, _) = module(grid_size=40), data()
    for layer in (net[0], net[2]):
        smooth = torch.linspace(-1, 1, 43, dtype=torch.float64) ** 3
        layer.spline_weight.data = smooth * torch.randn(*layer.spline_weight.shape[:2], 1, dtype=torch.float64)
    inputs, expected = [x, net[:2](x)], net(x)
    separate = copy.deepcopy(net)
    assert update_grids(net, x) == ["0", "2"]
    for layer, samples in zip((separate[0], separate[2]), inputs, strict=True):
        layer.update_grid(samples, margin=0.25 / 40)
    assert same(state(net), state(separate))
    assert (net(x) - expected).abs().max() < 5e-3 * expected.std()  # the old curves have kinks at 1 and -1
    assert all(share.max() < 0.01 for share in coverage(net, x).values())


def test_the_network_and_the_module_move_alike():
    x = data()[0]
    by_method, by_function = KAN([2, 3, 1], seed=0, dtype=torch.float64), KAN([2, 3, 1], seed=0, dtype=torch.float64)
    by_method.update_grid(x, margin=None, trim=0.1, eps=0.5)
    assert update_grids(by_function, x, trim=0.1, eps=0.5) == ["layers.0", "layers.1"]
    assert same(state(by_method), state(by_function))


def test_layers_that_are_frozen_symbolic_or_not_called_keep_their_grids():
    net, (x, _) = module(), data()
    net[0].spline_weight.requires_grad_(False)
    before = state(net)
    assert update_grids(net, x, torch.optim.Adam([net[2].spline_weight])) == ["2"]
    assert torch.equal(net[0].grid, before["0.grid"])
    for i in range(6):
        net[2].fix(0, i, "sin")
    assert update_grids(net, x) == []

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(KANLinear(2, 1) for _ in range(2))

        def forward(self, x):
            return self.experts[1](x)

    assert update_grids(Experts(), x.float()) == ["experts.1"]


@pytest.mark.parametrize("where", ["first", "hidden"])
def test_nothing_moves_after_an_error(where):
    net, (x, y) = module(), data()
    optimizer = torch.optim.Adam(net.parameters())
    step(net, optimizer, x, y)
    if where == "first":
        x[3, 1] = math.nan
    else:
        net[0].bias.data[2] = math.inf
    before, memory = state(net), dict(optimizer.state)
    with pytest.raises(NotFinite, match=f"reaches layer {'0' if where == 'first' else '2'}: clean the data; if they"):
        update_grids(net, x, optimizer)
    assert same(before, state(net)) and optimizer.state == memory


# Optimisers


def test_the_optimiser_forgets_splines_and_nothing_else():
    net, (x, y) = module(), data()
    optimizer = torch.optim.AdamW(net.parameters())
    step(net, optimizer, x, y)
    update_grids(net, x, optimizer)
    splines = {id(net[0].spline_weight), id(net[2].spline_weight)}
    assert {id(p) for p in optimizer.state} == {id(p) for p in net.parameters()} - splines
    assert step(net, optimizer, x, y).isfinite()


def test_lbfgs_of_this_package_keeps_its_history_when_knots_move():
    net, (x, y) = module(), data()
    ours, theirs = LBFGS(net.parameters()), torch.optim.LBFGS(net.parameters())
    for optimizer in (ours, theirs):
        step(net, optimizer, x, y)
        update_grids(net, x, optimizer)
    assert ours.state and not theirs.state
    refine_grids(net, 8, [ours])
    assert not ours.state and step(net, ours, x, y).isfinite()


def test_several_optimisers():
    net, (x, y) = module(), data()
    first, second = torch.optim.SGD(net[0].parameters(), 1e-3, momentum=0.9), torch.optim.Adam(net[1:].parameters())
    for optimizer in (first, second):
        step(net, optimizer, x, y)
    update_grids(net, x, [first, second])
    assert net[0].spline_weight not in first.state and net[2].spline_weight not in second.state
    assert net[0].bias in first.state and net[2].bias in second.state
    with pytest.raises(
        ValueError, match=r"the optimiser does not train spline_weight of the layers \['2'\].*list of them"
    ):
        update_grids(net, x, first)


@pytest.mark.parametrize(
    "change", [lambda net, o: update_grids(net, data()[0], o), lambda net, o: refine_grids(net, 7, o)]
)
def test_an_optimiser_of_something_else_is_refused(change):
    net = module()
    before = state(net)
    with pytest.raises(ValueError, match=r"does not train spline_weight of the layers \['0', '2'\]: it is of another"):
        change(net, torch.optim.Adam(module().parameters()))
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer, got Sequential"):
        change(net, [module()])
    assert same(before, state(net))


# Refinement


def test_nothing_moves_after_an_error_in_the_last_layer():
    net, (x, y) = module(), data()
    optimizer = torch.optim.Adam(net.parameters())
    step(net, optimizer, x, y)
    net[2].grid_eps = 2.0
    before, memory = state(net), dict(optimizer.state)
    with pytest.raises(ValueError, match="eps must be between 0"):
        update_grids(net, x, optimizer)
    assert same(before, state(net)) and optimizer.state == memory


@pytest.mark.parametrize("fused", [False, True])
def test_refinement_keeps_functions_and_the_optimiser_goes_on(fused):
    net, (x, y) = module(), data()
    optimizer = torch.optim.Adam(net.parameters(), fused=fused)
    step(net, optimizer, x, y)
    expected = net(3 * x)
    assert refine_grids(net, 10, optimizer) == ["0", "2"]
    torch.testing.assert_close(net(3 * x), expected, atol=1e-12, rtol=0)
    assert net[0].grid_size == net[2].grid_size == 10
    assert step(net, optimizer, x, y).isfinite()
    memory = optimizer.state[net[0].spline_weight]
    assert memory["exp_avg"].shape == net[0].spline_weight.shape
    assert refine_grids(net, 10, optimizer) == []  # nothing to do, so nothing is forgotten
    assert optimizer.state[net[0].spline_weight] is memory


def test_a_network_in_a_module_knows_its_new_size():
    net = nn.Sequential(KAN([2, 3, 1]), KANLinear(1, 1))
    refine_grids(net, 9)
    assert net[0].grid == 9 and "grid=9" in repr(net[0])


def test_refinement_changes_all_layers_or_none():
    net = nn.Sequential(KANLinear(1, 1), KANLinear(1, 1, grid_range=(10, 10.01), dtype=torch.float32))
    before, parameters = state(net), list(net.parameters())
    with pytest.raises(ValueError, match="can't tell apart the knots of 100000 spans"):
        refine_grids(net, 10**5)
    assert same(before, state(net)) and net[0].grid_size == 5
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    with pytest.raises(ValueError, match="new_size must be at least 1, got 0"):
        refine_grids(net, 0)


def test_refinement_of_a_wrapped_module_is_refused(tmp_path):
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    try:
        with pytest.raises(ValueError, match="refine first, then wrap the module"):
            refine_grids(DistributedDataParallel(module()), 10)
    finally:
        torch.distributed.destroy_process_group()


def test_moves_do_not_recompile_and_a_refinement_does_so_once():
    torch._dynamo.reset()
    counter = CompileCounter()
    net, (x, y) = module(dtype=torch.float32), data(dtype=torch.float32)
    compiled = torch.compile(net, backend=counter)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = GridUpdates(compiled, optimizer, every=2, stop=6)
    for _ in range(8):
        schedule.step(x)
        step(compiled, optimizer, x, y)
    assert counter.frame_count == 1
    torch.testing.assert_close(compiled(x), net(x))
    for size in (8, 12):
        refine_grids(compiled, size, optimizer)
        for _ in range(2):
            step(compiled, optimizer, x, y)
    assert counter.frame_count == 3
    torch.testing.assert_close(compiled(x), net(x))


# The schedule


def test_the_schedule_moves_in_its_steps_and_reads_samples_only_then():
    net, (x, _), read = module(), data(), []

    def batches():
        read.append(schedule.steps)
        yield x

    schedule = GridUpdates(net, every=4, start=3, stop=12)
    moved = [schedule.step(batches()) for _ in range(20)]
    assert [number for number, one in enumerate(moved) if one] == read == [4, 8]
    other = GridUpdates(net, every=4, start=3, stop=12)
    other.load_state_dict({"steps": 8})
    assert other.step(x) and other.state_dict() == {"steps": 9}


def test_a_step_that_fails_does_not_count():
    schedule = GridUpdates(module(), every=1, stop=1)
    with pytest.raises(NotFinite):
        schedule.step(torch.full((3, 2), math.nan, dtype=torch.float64))
    assert schedule.step(data()[0]) and not schedule.step(data()[0])


def test_samples_beyond_the_grids_are_learnt_better_where_grids_move():
    errors = []
    for stop in (0, 100):
        net, (x, y) = module(extrapolation="zero"), data(scale=10)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        schedule = GridUpdates(net, optimizer, every=20, stop=stop)
        for _ in range(200):
            schedule.step(x)
            loss = step(net, optimizer, x, y)
        errors.append(loss.item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"stop": 2.5}, TypeError, "stop must be an int, got 2.5"),
        ({"start": -1}, ValueError, "start must be at least 0"),
    ],
)
def test_bad_schedules(options, error, message):
    with pytest.raises(error, match=message):
        GridUpdates(module(), **options)
    with pytest.raises(ValueError, match="GridUpdates found no KANLinear in Linear"):
        GridUpdates(nn.Linear(1, 1))

"""Calls of any module that show what reaches its layers, and change nothing."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, TensorDataset

from kan_fast import KANLinear, coverage
from kan_fast._support.samples import ENOUGH


def block():
    return nn.Sequential(nn.BatchNorm1d(3), KANLinear(3, 4), nn.Dropout(0.5), KANLinear(4, 1))


def test_a_call_changes_neither_buffers_nor_random_numbers_nor_gradients():
    module, x = block(), 3 * torch.randn(50, 3) + 1
    loss = module(x).sum()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    random = torch.get_rng_state()
    first = coverage(module, x)
    assert torch.equal(torch.get_rng_state(), random)
    for name, t in module.state_dict().items():
        assert torch.equal(t, before[name]), name
    loss.backward()  # what autograd saved is as it was
    again = coverage(module, x)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not module[1]._forward_pre_hooks


def test_the_mode_of_the_module_decides_what_its_layers_see():
    module, x = block(), 5 + torch.randn(200, 3)
    assert coverage(module, x)["1"].max() < 0.5  # batch norm takes the statistics of the batch
    assert coverage(module.eval(), x)["1"].min() > 0.9  # and here those that it has learnt, which are 0 and 1


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = KANLinear(2, 1), KANLinear(2, 1), KANLinear(2, 1)

    def forward(self, a, b, *, twice=False):
        return self.left(x=a) + self.right(b) + (self.right(2 * b) if twice else 0)


def test_forms_of_inputs():
    module, a, b = Pair(), torch.rand(5, 7, 2), 1.1 + torch.rand(5, 7, 2)
    for x in ((a, b), {"a": a, "b": b}, [(a, b), (a, b)], [[a, b]], iter([{"a": a, "b": b}])):
        shares = coverage(module, x)
        assert {name: share.tolist() for name, share in shares.items()} == {"left": [0, 0], "right": [1, 1]}
    shares = coverage(module, {"a": a, "b": b - 1.1, "twice": True})
    expected = torch.cat([b - 1.1, 2 * (b - 1.1)])
    torch.testing.assert_close(shares["right"], (expected > 1).double().mean((0, 1)).float())


def test_a_stream_is_read_until_there_are_enough_samples():
    module, read = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1)), []

    def stream():
        while True:
            read.append(torch.rand(10, 100, 2))
            yield read[-1]

    coverage(module, stream())
    assert len(read) == 5 and ENOUGH <= 5 * 1000


@pytest.mark.parametrize("compile", [torch.compile, lambda module, backend: module.compile(backend=backend) or module])
def test_compiled_modules_are_seen_through_and_not_compiled_for_it(compile):
    torch._dynamo.reset()
    counter = CompileCounter()
    plain, x = nn.Sequential(KANLinear(3, 4), nn.Tanh(), KANLinear(4, 1)), 2 * torch.randn(50, 3)
    expected = coverage(plain, x)
    module = compile(plain, backend=counter)
    for _ in range(2):
        shares = coverage(module, x)
        assert list(shares) == ["0", "2"]
        assert all(torch.equal(shares[name], expected[name]) for name in shares)
        compiled = counter.frame_count
        with torch.no_grad():
            module(x)
    assert compiled == counter.frame_count > 0  # the first call of the module compiled it, the second found that valid
    nested = nn.Sequential(torch.compile(KANLinear(3, 4), backend=counter), KANLinear(4, 1))
    assert list(coverage(nested, x)) == ["0", "1"]


def test_transformers_show_what_reaches_their_layers_in_both_modes():
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module.linear1, module.linear2 = KANLinear(8, 16), KANLinear(16, 8)
    for _ in range(2):
        shares = coverage(module, torch.randn(5, 7, 8))
        assert {name: len(share) for name, share in shares.items()} == {"linear1": 8, "linear2": 16}
        module.eval()


PAIRS = DataLoader(TensorDataset(torch.rand(8, 3), torch.rand(8, 1)), 4)


@pytest.mark.parametrize(
    ("module", "x", "error", "message"),
    [
        (nn.Linear(3, 1), torch.rand(4, 3), ValueError, "coverage found no KANLinear in Linear; pass the module"),
        (torch.sin, torch.rand(4, 3), TypeError, r"coverage expected a torch\.nn\.Module, got builtin"),
        (
            block(),
            3,
            TypeError,
            "expected a tensor, a tuple or dict of inputs, or an iterable of such batches, got int",
        ),
        (block(), torch.rand(4, 3).numpy(), TypeError, "iterable of such batches, got ndarray of length 4"),
        (block(), PAIRS, TypeError, r"can't call Sequential with 2 inputs .*: \(x for x, _ in loader\)"),
        (torch.compile(block()), PAIRS, TypeError, r"with 2 inputs .*: \(x for x, _ in loader\)"),
        (block(), [], ValueError, "coverage needs samples: none reach a KANLinear of Sequential"),
    ],
)
def test_errors(module, x, error, message):
    with pytest.raises(error, match=message):
        coverage(module, x)

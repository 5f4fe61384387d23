"""Tests of the puzzle's wrapper: image space in and out, at any size; laws/test_puzzle_laws.py tests the operator."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from nndiff.networks.puzzle import Head, Puzzled, averaging, pad, puzzle
from nndiff.words.spread import Spread
from nndiff.words.volume import Triple


class Recorder(nn.Module):
    """Answers with the first channels of what it was given, and remembers it."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen = x
        return x[:, : self.channels]


class Repeater(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.repeat(1, self.channels // x.shape[1], 1, 1, 1)


def test_the_core_sees_volume_and_condition_puzzled() -> None:
    core = Recorder(8)
    x, y = torch.randn(2, 1, 4, 6, 8), torch.randn(2, 2, 4, 6, 8)
    out = Puzzled(core, (2, 2, 2), (2, 2, 2), None)(x, torch.rand(2), y)
    assert torch.equal(core.seen, puzzle(torch.cat([x, y], 1), (2, 2, 2)))
    assert torch.equal(out, x)  # the first eight channels are x's own


def test_sources_are_standardised_for_core_head_and_skip_and_x_t_is_not() -> None:
    """The network with spreads answers as the same one without, whose sources were standardised before."""
    spreads = (Spread(-0.9, 0.4), Spread(3.0, 20.0))
    head, skip = Head(4 + 3, 1, 8), averaging(3, (1,), (3, 3, 3))
    nn.init.normal_(head.last.weight)
    words = {"core": Pointwise(24, 32), "factor": (2, 2, 2), "multiple": (2, 2, 2), "head": head, "skip": skip}
    x, y, t = torch.randn(2, 1, 4, 6, 8), torch.randn(2, 2, 4, 6, 8), torch.rand(2)
    before = torch.stack([(y[:, i] - s.mean) / s.std for i, s in enumerate(spreads)], dim=1)
    network = Puzzled(**words, spreads=spreads)
    torch.testing.assert_close(network(x, t, y), Puzzled(**words)(x, t, before))
    assert network.state_dict().keys() == Puzzled(**words).state_dict().keys()


def test_a_new_skip_gives_the_local_mean_of_a_standardised_source() -> None:
    """Beyond the volume is the mean of all volumes."""
    x, y = torch.randn(2, 1, 6, 6, 6), 5 * torch.randn(2, 1, 6, 6, 6) - 7
    skip = averaging(2, (1,), (3, 3, 3), [Spread(-7.0, 5.0)])
    out = Puzzled(Recorder(1), (1, 1, 1), (1, 1, 1), None, skip=skip, spreads=[Spread(-7.0, 5.0)])(x, torch.rand(2), y)
    mean = uniform_filter(y[:, 0].numpy(), (0, 3, 3, 3), mode="constant", cval=-7.0)
    torch.testing.assert_close(out[:, 0], x[:, 0] + torch.from_numpy(mean))


def test_factor_one_is_transparent() -> None:
    core, x = Recorder(1), torch.randn(1, 1, 3, 5, 7)
    assert torch.equal(Puzzled(core, (1, 1, 1), (1, 1, 1), None)(x, torch.rand(1)), x)
    assert torch.equal(core.seen, x)


def test_padding_repeats_the_far_border() -> None:
    x = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    assert pad(x, (2, 1, 4)).tolist() == [[[[[0, 1, 2, 2]], [[0, 1, 2, 2]]]]]
    assert pad(x, (1, 1, 3)) is x


def test_a_head_answers_at_any_size_and_starts_at_zero() -> None:
    head = Head(4 + 2, 1, 8)
    network = Puzzled(Repeater(32), (2, 2, 2), (4, 4, 4), head)  # 4·8 channels from 2·8
    x, y = torch.randn(1, 1, 5, 6, 7), torch.randn(1, 1, 5, 6, 7)
    out = network(x, torch.rand(1), y)
    assert out.shape == x.shape
    assert not out.any()
    nn.init.normal_(head.last.weight)
    assert network(x, torch.rand(1), y).std() > 0


def test_a_head_that_corrects_adds_to_the_cores_first_channels() -> None:
    torch.manual_seed(0)
    adding, plain = Head(4 + 2, 2, 8, corrects=2), Head(4 + 2, 2, 8)
    nn.init.normal_(adding.last.weight)
    plain.load_state_dict(adding.state_dict())
    core, seen, t = torch.randn(1, 4, 5, 6, 7), torch.randn(1, 2, 5, 6, 7), torch.rand(1)
    torch.testing.assert_close(adding(core, seen, t), core[:, :2] + plain(core, seen, t))


@pytest.mark.parametrize("size", [(5, 6, 7), (8, 7, 5), (3, 4, 8)], ids=str)
def test_at_any_size_it_answers_as_at_the_padded_size_and_its_far_border_has_neighbours(size) -> None:
    """The head too: what it learned on whole pieces does not hold where the last voxel's neighbour is cut away."""
    head, skip = Head(4 + 2, 1, 8), averaging(2, (1,), (3, 3, 3))
    nn.init.normal_(head.last.weight)
    network = Puzzled(Repeater(32), (2, 2, 2), (4, 4, 4), head, skip=skip)
    x, y, t = torch.randn(1, 1, *size), torch.randn(1, 1, *size), torch.rand(1)
    whole = network(pad(x, (4, 4, 4)), t, pad(y, (4, 4, 4)))
    assert torch.equal(network(x, t, y), whole[:, :, : size[0], : size[1], : size[2]])


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
def test_a_skip_adds_the_local_mean_of_the_channels_it_names(kernel: Triple) -> None:
    x, y = torch.randn(2, 2, 6, 6, 6), torch.randn(2, 3, 6, 6, 6)
    network = Puzzled(Recorder(2), (1, 1, 1), (1, 1, 1), None, skip=averaging(5, (4, 2), kernel))
    out = network(x, torch.rand(2), y)
    for i, channel in enumerate((2, 0)):  # of the condition: channels 4 and 2 of all
        mean = uniform_filter(y[:, channel].numpy(), (0, *kernel), mode="constant")
        torch.testing.assert_close(out[:, i], x[:, i] + torch.from_numpy(mean))


def asides() -> tuple[Puzzled, Puzzled]:
    """Return a network with outputs aside, and the same network without them."""
    torch.manual_seed(0)
    core = Pointwise(16, 32)
    head, aside = Head(4 + 2, 1, 8), Head(4 + 2, 3, 8)
    for part in (head, aside):
        nn.init.normal_(part.last.weight)
    skip = averaging(2, (1,), (3, 3, 3))
    words = {"factor": (2, 2, 2), "multiple": (4, 4, 4), "head": head, "skip": skip}
    return Puzzled(core, **words, aside=aside), Puzzled(core, **words)


class Pointwise(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mix = nn.Conv3d(c_in, c_out, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mix(x)  # type: ignore[no-any-return]


def test_outputs_aside_follow_the_others_and_change_none_of_them() -> None:
    both, plain = asides()
    x, y, t = torch.randn(2, 1, 5, 6, 7), torch.randn(2, 1, 5, 6, 7), torch.rand(2)
    out = both(x, t, y)
    assert out.shape == (2, 1 + 3, 5, 6, 7)
    assert torch.equal(out[:, :1], plain(x, t, y))
    assert out[:, 1:].std() > 0


def test_the_gradient_of_an_output_aside_reaches_its_own_weights_alone() -> None:
    both, _ = asides()
    x, y, t = torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 4, 4, 4), torch.rand(1)
    both(x, t, y)[:, 1:].square().sum().backward()
    reached = {name.partition(".")[0] for name, weight in both.named_parameters() if weight.grad is not None}
    assert {name for name in reached if any(w.grad.any() for w in getattr(both, name).parameters())} == {"aside"}
    both.zero_grad()
    both(x, t, y)[:, :1].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in both.core.parameters())
    assert not any(weight.grad is not None and weight.grad.any() for weight in both.aside.parameters())


def test_a_size_the_factor_does_not_divide_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        puzzle(torch.randn(1, 1, 3, 4, 4), (2, 2, 2))


def test_a_timed_head_is_as_any_other_at_first_and_can_answer_each_time_in_its_own_way() -> None:
    torch.manual_seed(0)
    timed, plain = Head(4 + 2, 1, 8, timed=True), Head(4 + 2, 1, 8)
    nn.init.normal_(timed.last.weight)
    plain.load_state_dict({name: value for name, value in timed.state_dict().items() if name in plain.state_dict()})
    core, seen, t = torch.randn(2, 4, 5, 5, 5), torch.randn(2, 2, 5, 5, 5), torch.tensor([0.1, 0.9])
    torch.testing.assert_close(timed(core, seen, t), plain(core, seen, t))
    assert timed.film is not None
    nn.init.normal_(timed.film.weight)
    assert not torch.allclose(timed(core, seen, t), timed(core, seen, t.flip(0)), atol=1e-3)

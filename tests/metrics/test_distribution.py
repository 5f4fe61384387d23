"""Tests of distances between sets against closed forms, of the extractors, and of MedicalNet's layout."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage, stats

from nndiff.metrics.distribution import (
    bootstrap,
    compare_sets,
    frechet,
    mmd,
    nearest,
    sliced_wasserstein,
)
from nndiff.metrics.features import EXTRACTORS, MedicalNet, Random
from nndiff.words.errors import NndiffError

FIGURES = {"frechet": frechet, "mmd": lambda x, y: mmd(x, y).biased_root, "sliced": sliced_wasserstein}
every_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)


def drawn(n, d, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, size=(n, d))


def correlated(n, d, seed):
    """Samples of N(0, AᵀA), and that covariance."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) / math.sqrt(d)
    return rng.normal(size=(n, d)) @ mixing, mixing.T @ mixing


# ---------------------------------------------------------------- laws of all three


@every_figure
@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (2, 1)])
def test_a_set_lies_at_no_distance_from_itself(figure, n, d) -> None:
    features = 100 + drawn(n, d)
    assert figure(features, features.copy()) == pytest.approx(0, abs=1e-10)


@every_figure
@pytest.mark.parametrize("d", [4, 12, 30])
def test_it_is_symmetric_and_above_zero_whatever_the_rank(figure, d) -> None:
    x, y = drawn(5, d, 1), drawn(5, d, 2)
    assert figure(x, y) > 0.01
    assert figure(x, y) == pytest.approx(figure(y, x), rel=1e-9)


@every_figure
def test_the_order_of_samples_does_not_count(figure) -> None:
    x, y = drawn(20, 6, 1), drawn(20, 6, 2)
    shuffled = np.random.default_rng(3).permutation(y)
    assert figure(x, shuffled) == pytest.approx(figure(x, y), rel=1e-9)


@every_figure
def test_features_of_constants_are_finite(figure) -> None:
    zeros = np.zeros((5, 3))
    assert figure(zeros, zeros) == 0
    assert math.isfinite(figure(zeros, zeros + 2))
    assert figure(zeros, zeros + 2) > 0.8


# ---------------------------------------------------------------- Fréchet


def test_frechet_of_two_gaussians_is_the_formula_of_their_moments() -> None:
    d = 5
    (x, first), (y, second) = correlated(40_000, d, 1), correlated(40_000, d, 2)
    shift = np.linspace(-1, 1, d)
    expected = shift @ shift + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet(x, y + shift) == pytest.approx(expected, rel=0.02)


def test_frechet_is_exact_on_the_samples_own_covariances() -> None:
    x, y = correlated(60, 7, 1)[0], 0.5 + correlated(60, 7, 2)[0]
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_singular_covariances_is_the_limit_of_regular_ones() -> None:
    """N = 5 in 12 dimensions, against the formula with a little added to the diagonals."""
    x, y = drawn(5, 12, 1), drawn(5, 12, 2)
    first, second = (np.cov(side, rowvar=False) + 1e-9 * np.eye(12) for side in (x, y))
    root = linalg.sqrtm(first)
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + np.trace(first + second) - 2 * np.trace(linalg.sqrtm(root @ second @ root)).real
    assert frechet(x, y) == pytest.approx(expected, rel=1e-3)
    assert frechet(x, x + 3) == pytest.approx(9 * 12, rel=1e-12)


# ---------------------------------------------------------------- MMD


def test_mmd_by_its_definition() -> None:
    x, y = drawn(7, 3, 1), drawn(7, 3, 2, shift=0.5)
    pooled = [*x, *y]
    width = np.median([np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]])
    kernel = np.array([[math.exp(-np.sum((a - b) ** 2) / (2 * width**2)) for b in pooled] for a in pooled])
    xx, yy, xy = kernel[:7, :7], kernel[7:, 7:], kernel[:7, 7:]
    found = mmd(x, y)
    assert found.biased_root**2 == pytest.approx(xx.mean() + yy.mean() - 2 * xy.mean())
    off = ~np.eye(7, dtype=bool)
    assert found.unbiased == pytest.approx(xx[off].mean() + yy[off].mean() - 2 * xy.mean())


def test_mmd_of_samples_most_of_which_are_equal() -> None:
    """The median distance is 0, and so the kernel 1 for equal samples and 0 for others."""
    x, y = np.zeros((5, 3)), np.zeros((5, 3))
    assert (mmd(x, y).biased_root, mmd(x, y).unbiased) == (0, 0)
    y[0] = 1
    assert mmd(x, y).biased_root ** 2 == pytest.approx(1 + 17 / 25 - 2 * 20 / 25)
    assert mmd(x, y).unbiased == pytest.approx(1 + 12 / 20 - 2 * 20 / 25)


def test_unbiased_mmd_is_about_zero_for_two_samples_of_one_distribution() -> None:
    found = [mmd(drawn(12, 4, 2 * seed), drawn(12, 4, 2 * seed + 1)) for seed in range(200)]
    values = np.array([each.unbiased for each in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert np.mean([each.biased_root**2 for each in found]) > 20 * values.std() / math.sqrt(len(values))


# ---------------------------------------------------------------- sliced Wasserstein


def test_in_one_dimension_it_is_the_distance_of_quantiles() -> None:
    """N(0, 1) and N(m, s²): W₂² = m² + (s - 1)²."""
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    x, y = np.random.default_rng(0).permutation(quantiles), 0.7 + 1.5 * quantiles
    assert sliced_wasserstein(x, y) == pytest.approx(math.sqrt(0.7**2 + 0.5**2), rel=2e-3)


def test_a_pure_shift_spreads_over_the_dimensions() -> None:
    """The mean of (d·u)² over unit directions u is |d|²/D."""
    x, shift = drawn(8, 10), np.arange(10.0)
    expected = np.linalg.norm(shift) / math.sqrt(10)
    assert sliced_wasserstein(x, x + shift, projections=40_000) == pytest.approx(expected, rel=0.02)
    assert sliced_wasserstein(x, x + shift) == pytest.approx(expected, rel=0.15)


def test_directions_come_from_the_seed() -> None:
    x, y = drawn(8, 10, 1), drawn(8, 10, 2)
    assert sliced_wasserstein(x, y) == sliced_wasserstein(x, y, seed=0)
    assert sliced_wasserstein(x, y) != sliced_wasserstein(x, y, seed=1)


# ---------------------------------------------------------------- memorisation


@pytest.mark.parametrize(("d", "mutual"), [(1, 2 / 3), (2, 0.6215), (3, 16 / 27)])
def test_fresh_draws_are_as_near_as_chance_has_it(d, mutual) -> None:
    """The chance of mutual nearest neighbours: a ball over the union of two that hold each other's centre."""
    rng = np.random.default_rng(d)
    found = [nearest(rng.uniform(size=(400, d)), rng.uniform(size=(400, d))) for _ in range(20)]
    assert np.mean([each.ratio for each in found]) == pytest.approx(1, abs=0.1)
    assert np.mean([each.closer for each in found]) == pytest.approx(mutual, abs=0.03)


def test_copies_are_flagged() -> None:
    training = drawn(60, 8)
    copies = training[::2] + 0.01 * drawn(30, 8, 1)
    found, fresh = nearest(copies, training), nearest(drawn(60, 8, 2), training)
    assert found.closer == 1
    assert found.ratio < 0.02
    assert fresh.closer < 0.7
    assert fresh.ratio > 0.9


def test_nearest_by_hand() -> None:
    """Training 0, 1, 4: nearest others 1, 1, 3. Generated 1.5, 6.5 and -2: .5 (≤ 1), 2.5 (≤ 3) and 2 (> 1)."""
    found = nearest(np.array([[1.5], [6.5], [-2.0]]), np.array([[0.0], [1.0], [4.0]]))
    assert (found.generated, found.training, found.ratio, found.closer) == (2.0, 1.0, 2.0, 2 / 3)


def test_copies_of_twins_are_copies() -> None:
    training = np.repeat(drawn(5, 3), 2, axis=0)
    found = nearest(training, training)
    assert math.isnan(found.ratio)
    assert found.closer == 1


# ---------------------------------------------------------------- bootstrap


@every_figure
def test_the_interval_holds_the_estimate(figure) -> None:
    x, y = drawn(100, 2, 1), drawn(100, 2, 2, shift=1)
    low, high = bootstrap(figure, x, y)
    assert low < figure(x, y) < high
    assert (low, high) == bootstrap(figure, x, y)
    assert (low, high) != bootstrap(figure, x, y, seed=1)


def test_its_width_is_that_of_the_mean() -> None:
    """Of the difference of two means of N = 200: ±1.96·√(2/N)."""
    x, y = drawn(200, 1, 1), drawn(200, 1, 2)
    low, high = bootstrap(lambda a, b: float(a.mean() - b.mean()), x, y, draws=2000)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / 200), rel=0.15)


# ---------------------------------------------------------------- refusals


def spoilt(value):
    features = drawn(6, 3)
    features[4, 1] = value
    return features


@pytest.mark.parametrize("measure", [*FIGURES.values(), lambda x, y: bootstrap(frechet, x, y)])
@pytest.mark.parametrize(
    ("real", "generated", "words"),
    [
        (drawn(6, 3), drawn(5, 3), "equal numbers; found 6 real, 5 generated"),
        (drawn(1, 3), drawn(1, 3), "2 or more; found 1"),
        (drawn(6, 3), drawn(6, 4), "found 3 and 4"),
        (drawn(6, 3), spoilt(math.nan), "NaN or infinity in 1 of 6 volumes, the first one number 4"),
        (spoilt(math.inf), drawn(6, 3), "where: the real set"),
        (drawn(6, 3)[0], drawn(6, 3), r"\[N, D\]; found \[3\]"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(measure, real, generated, words) -> None:
    with pytest.raises(NndiffError, match=words):
        measure(real, generated)


@pytest.mark.parametrize(
    ("generated", "training"), [(drawn(3, 2), drawn(1, 2)), (drawn(3, 2), drawn(4, 3)), (drawn(0, 2), drawn(4, 2))]
)
def test_nearest_refuses_too(generated, training) -> None:
    with pytest.raises(NndiffError, match="expected"):
        nearest(generated, training)


# ---------------------------------------------------------------- together


def test_compare_sets_gathers_every_figure_and_warns_of_singular_covariances() -> None:
    x, y = drawn(13, 12, 1), drawn(13, 12, 2)
    found = compare_sets(x, y, "random12")
    assert (found.fid, found.sliced_wasserstein) == (frechet(x, y), sliced_wasserstein(x, y))
    assert (found.mmd, found.mmd_unbiased) == (mmd(x, y).biased_root, mmd(x, y).unbiased)
    assert (found.n, found.dimensions, found.features, found.note) == (13, 12, "random12", "")
    assert "12 volumes, 12 features" in compare_sets(x[:12], y[:12], "random12").note


# ---------------------------------------------------------------- random features


def volumes(seed, n=24, size=16):
    """Smooth blobs, each of its own contrast, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(size,) * 3), 1.5) for _ in range(n)]
    return [np.clip(x / x.std() * rng.uniform(0.25, 0.35), -1, 1).astype(np.float32) for x in smooth]


def noisy(volume, level):
    rng = np.random.default_rng(abs(int(1e6 * volume[0, 0, 0])))
    return volume + np.float32(level) * rng.normal(size=volume.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("corrupt", "levels"),
    [(noisy, (0, 0.3, 0.5, 0.8)), (ndimage.gaussian_filter, (0, 0.8, 1.2, 2))],
    ids=["noise", "blur"],
)
def test_figures_grow_with_corruption(corrupt, levels) -> None:
    extractor = Random()
    real = np.stack([extractor(volume) for volume in volumes(0)])
    rows = []
    for level in levels:
        generated = np.stack([extractor(corrupt(volume, level)) for volume in volumes(1)])
        rows.append([figure(real, generated) for figure in FIGURES.values()])
    assert np.all(np.diff(rows, axis=0) > 0)
    assert np.all(np.array(rows[-1]) > 2 * np.array(rows[0]))


def test_random_features_are_the_same_everywhere() -> None:
    """The figures' meaning hangs on these weights: whoever changes them gives the extractor another name."""
    z, y, x = np.indices((12, 16, 20))
    features = Random()(np.sin(0.3 * z + 0.5 * y * x / 16).astype(np.float32))
    assert features.dtype == np.float64
    assert features.shape == (16,)
    np.testing.assert_allclose(features[:3], [0.0498857, -0.1417310, 0.2502997], rtol=1e-3)


def test_extracting_touches_no_global_state() -> None:
    torch.manual_seed(1)
    before, volume = torch.get_rng_state(), volumes(0, n=1)[0]
    first = Random()(volume)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(Random()(volume), first)


def test_the_number_of_features_is_in_the_name_and_a_longer_one_begins_with_a_shorter() -> None:
    volume = volumes(0, n=1)[0]
    small, large = EXTRACTORS.make("random", {"dimensions": 5}), EXTRACTORS.make("random", {})
    assert (small.name, large.name) == ("random5", "random16")
    np.testing.assert_allclose(small(volume), large(volume)[:5])


def test_the_projection_keeps_distances_when_it_drops_nothing() -> None:
    """240 of 240: an orthogonal map, so that a change of one channel counts the same wherever it is."""
    _, projection = Random(240)._weights
    np.testing.assert_allclose(projection.T @ projection, np.eye(240), atol=1e-12)
    with pytest.raises(NndiffError, match="1 to 240"):
        Random(241)(volumes(0, n=1)[0])


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 14, 11)])
def test_any_volume_from_eight_voxels_on_has_features(shape) -> None:
    extractor, volume = Random(), np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    assert np.isfinite(extractor(volume)).all()
    assert np.isfinite(extractor(np.full(shape, -1, np.float32))).all()
    for wrong in (volume[None], volume[:7]):
        with pytest.raises(NndiffError, match="at least 8 voxels along each axis"):
            extractor(wrong)


# ---------------------------------------------------------------- MedicalNet


def layout():
    """Name → shape of every stored array, written out from the paper's table of the 50-layer network."""
    shapes = {"conv1.weight": (64, 1, 7, 7, 7)} | normalisation("bn1", 64)
    inputs = 64
    for layer, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 1, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1, 1)
            for which, channels in (("1", width), ("2", width), ("3", 4 * width)):
                shapes |= normalisation(f"{name}.bn{which}", channels)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1, 1)
                shapes |= normalisation(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def normalisation(name, channels):
    return {f"{name}.{word}": (channels,) for word in ("weight", "bias", "running_mean", "running_var")}


def made(shapes, seed=0):
    """Every array a view into one pool of random numbers, so that a file is small; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    pool = 0.03 * torch.randn(max(math.prod(shape) for shape in shapes.values()), generator=generator)
    scales = 0.5 + torch.rand(2048, generator=generator)
    state = {}
    for name, shape in shapes.items():
        positive = name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight"))
        state[name] = (scales if positive else pool)[: math.prod(shape)].view(shape)
    return state


@pytest.fixture(scope="module")
def state():
    return made(layout())


@pytest.fixture(scope="module")
def network(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("medicalnet") / "resnet_50.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    extractor = MedicalNet(path)
    extractor(volumes(0, n=1)[0])
    return extractor


def test_the_layout_is_the_published_one(network) -> None:
    """46.21 million stored numbers without the segmenting head, as MedicalNet's table of costs has it."""
    stored = {name: tuple(tensor.shape) for name, tensor in network._network.state_dict().items()}
    shapes = {name: shape for name, shape in stored.items() if not name.endswith("num_batches_tracked")}
    assert shapes == layout()
    assert shapes["layer3.5.bn3.running_var"] == (1024,)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3, 3)
    assert "layer2.1.downsample.0.weight" not in shapes
    assert (len(shapes), len(stored)) == (265, 318)
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 2) == 46.21


def test_every_number_comes_from_the_file(network, state) -> None:
    loaded = network._network.state_dict()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize(
    ("wrapped", "prefix", "dtype"),
    [(False, "", "float32"), (False, "module.", "float32"), (True, "", "float32"), (True, "module.", "float16")],
)
def test_all_ways_of_storing_it_are_read(network, state, tmp_path, wrapped, prefix, dtype) -> None:
    """Bare or wrapped, with or without a prefix, in half precision too, with counters and with the segmenting head."""
    extra = {"conv_seg.0.weight": torch.zeros(2), "bn1.num_batches_tracked": torch.tensor(7)}
    extra |= {name: state[name].to(getattr(torch, dtype)) for name in ("conv1.weight", "layer4.2.bn3.running_mean")}
    contents = {prefix + name: tensor for name, tensor in {**state, **extra}.items()}
    torch.save({"state_dict": contents} if wrapped else contents, tmp_path / "weights.pth")
    volume = volumes(0, n=1, size=8)[0]
    tolerance = 0 if dtype == "float32" else 0.01 * network(volume).std()
    np.testing.assert_allclose(MedicalNet(tmp_path / "weights.pth")(volume), network(volume), rtol=0, atol=tolerance)


def test_it_gives_the_2048_means_of_a_map_of_an_eighth_of_the_resolution(network) -> None:
    net, maps = network._network, {}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _, __, out, name=name: maps.update({name: out[0].numpy()}))
        for name in ("maxpool", "layer1", "layer2", "layer3", "layer4")
    ]
    features = network(np.random.default_rng(0).uniform(-1, 1, (32, 24, 16)).astype(np.float32))
    for hook in hooks:
        hook.remove()
    assert {name: each.shape for name, each in maps.items()} == {
        "maxpool": (64, 8, 6, 4),
        "layer1": (256, 8, 6, 4),
        "layer2": (512, 4, 3, 2),
        "layer3": (1024, 4, 3, 2),
        "layer4": (2048, 4, 3, 2),
    }
    assert (features.dtype, features.shape) == (np.float64, (2048,))
    assert features.std() > 0
    np.testing.assert_allclose(features, maps["layer4"].mean(axis=(1, 2, 3)), rtol=1e-4)


def normalised(x, state, name):  # [C, Z, Y, X]
    weight, bias, mean, variance = (
        state[f"{name}.{word}"].numpy().astype(np.float64)[:, None, None, None]
        for word in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def convolved(x, kernel, stride=1, dilation=1):
    """Tap by tap over a zero border.  [C, Z, Y, X] → [C', …]."""
    kernel = kernel.numpy().astype(np.float64)
    reach, shape = dilation * (kernel.shape[-1] // 2), x.shape[1:]
    padded = np.pad(x, [(0, 0)] + [(reach, reach)] * 3)
    total = 0.0
    for tap in np.ndindex(kernel.shape[2:]):
        z, y, w = (slice(dilation * k, dilation * k + n, stride) for k, n in zip(tap, shape, strict=True))
        total = total + np.einsum("oc,czyx->ozyx", kernel[(..., *tap)], padded[:, z, y, w], optimize=True)
    return total


@pytest.mark.parametrize(
    ("name", "inputs", "stride", "dilation"),
    [("layer1.0", 64, 1, 1), ("layer2.0", 256, 2, 1), ("layer3.0", 512, 1, 2), ("layer4.1", 2048, 1, 4)],
)
def test_a_block_computes_what_its_equation_says(network, state, name, inputs, stride, dilation) -> None:
    x = np.random.default_rng(0).normal(size=(inputs, 4, 6, 5))
    out = np.maximum(normalised(convolved(x, state[f"{name}.conv1.weight"]), state, f"{name}.bn1"), 0)
    out = convolved(out, state[f"{name}.conv2.weight"], stride, dilation)
    out = convolved(np.maximum(normalised(out, state, f"{name}.bn2"), 0), state[f"{name}.conv3.weight"])
    shortcut = x
    if name.endswith(".0"):
        shortcut = convolved(x, state[f"{name}.downsample.0.weight"], stride)
        shortcut = normalised(shortcut, state, f"{name}.downsample.1")
    expected = np.maximum(normalised(out, state, f"{name}.bn3") + shortcut, 0)
    layer, block = name.split(".")
    with torch.no_grad():
        found = getattr(network._network, layer)[int(block)](torch.from_numpy(x).float()[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())


def test_the_stem_is_a_convolution_of_seven_then_the_largest_of_three(network, state) -> None:
    x = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(1, 12, 10, 14)), (0, 3, 3, 3))
    x *= 3 / x.std()  # smooth, so that whole windows lie below 0
    out = np.maximum(normalised(convolved(x, state["conv1.weight"], stride=2), state, "bn1"), 0)
    expected = np.stack([ndimage.maximum_filter(channel, 3, mode="nearest")[::2, ::2, ::2] for channel in out])
    seen, net = [], network._network
    hook = net.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].numpy()))
    with torch.no_grad():
        net(torch.from_numpy(x).float()[None])
    hook.remove()
    np.testing.assert_allclose(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_brightness_and_contrast_are_taken_out_unless_asked_otherwise(network) -> None:
    volume = volumes(0, n=1)[0]
    raw = MedicalNet(network.weights, standardise=False)
    assert (network.name, raw.name) == ("medicalnet", "medicalnet-unstandardised")
    np.testing.assert_allclose(network(0.3 * volume - 0.5), network(volume), rtol=1e-3, atol=1e-5)
    standard = (volume - volume.mean()) / volume.std()
    np.testing.assert_allclose(raw(standard), network(volume), rtol=1e-3, atol=1e-5)
    assert np.abs(raw(volume) - network(volume)).max() > 0.01 * network(volume).std()
    assert np.isfinite(network(np.full((8, 8, 8), -1, np.float32))).all()


def test_loading_touches_no_global_state(network) -> None:
    before = torch.get_rng_state()
    MedicalNet(network.weights)(volumes(0, n=1, size=8)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wrong_file_is_refused_with_the_first_name_amiss(state, tmp_path) -> None:
    path = tmp_path / "weights.pth"

    def refusal(contents):
        torch.save(contents, path)
        with pytest.raises(NndiffError, match="does not contain the weights of MedicalNet") as caught:
            MedicalNet(path)(np.zeros((8, 8, 8), np.float32))
        assert caught.value.where == path
        return str(caught.value)

    missing = {name: tensor for name, tensor in state.items() if not name.startswith(("layer3.5.bn3", "layer4"))}
    assert re.search(r"'layer3\.5\.bn3\.weight' of shape \(1024,\); found none among \d+ names", refusal(missing))
    narrow = {**state, "layer2.0.conv2.weight": torch.zeros(128, 128, 1, 1, 1)}
    assert "'layer2.0.conv2.weight' of shape (128, 128, 3, 3, 3); found (128, 128, 1, 1, 1)" in refusal(narrow)
    deeper = {**state, "layer3.6.conv1.weight": torch.zeros(1)}
    assert "found also 'layer3.6.conv1.weight'" in refusal({"state_dict": deeper})
    assert "dictionary of tensors" in refusal([1, 2])
    assert "dictionary of tensors" in refusal({"state_dict": {"epoch": 3}})


def test_a_missing_or_damaged_file_is_refused(tmp_path) -> None:
    path, volume = tmp_path / "weights.pth", np.zeros((8, 8, 8), np.float32)
    extractor = EXTRACTORS.make("medicalnet", {"weights": path})  # reads nothing yet
    with pytest.raises(NndiffError, match="weights are missing"):
        extractor(volume)
    path.write_bytes(b"not a file of weights")
    with pytest.raises(NndiffError, match="cannot be read"):
        extractor(volume)

"""What forward keeps when it runs by itself: no bit of a gradient tells that less was kept."""

import threading

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F

TIES = np.array([-1.0, -0.0, 0.0, 1.0, 2.0, np.inf, -np.inf, np.nan])


def images(dtype=av.float32, seed=0, shape=(2, 3, 9, 10)):
    """Small integers, so that there are ties, with every special value among them."""
    generator = np.random.default_rng(seed)
    found = generator.integers(-2, 3, shape).astype(np.float64)
    special = generator.random(shape) < 0.3
    found[special] = generator.choice(TIES, special.sum())
    return av.tensor(found).to(dtype)


def pooled(x, **options):
    return F.max_pool2d(F.relu(x * 1.5), **options)


def gradient(x, early, function=pooled, **options):
    """The gradient of a weighted sum; with `early` it is read before the backward pass."""
    leaf = x.detach().clone().requires_grad_()
    y = function(leaf, **options)
    weights = av.arange(1.0, y.numel() + 1, dtype=y.dtype).reshape(y.shape) - 7.5
    loss = (y * weights).sum()
    del y
    if early:
        loss.item()
    loss.backward()
    return leaf.grad


def kept(loss):
    """The types of what the history of a pooling keeps, which is found behind `loss`."""
    waiting = [loss.grad_fn]
    while waiting:
        history = waiting.pop()
        if history.name == "_max_pool":
            return sorted(value.dtype.name for value in history._kept)
        waiting += [one for one in history.inputs if one is not None]
    raise AssertionError("no pooling")


def same(found, expected):
    """Equal bits; every bfloat16 is one float32."""
    assert found.dtype is expected.dtype
    found, expected = [x.float() if x.dtype is av.bfloat16 else x for x in (found, expected)]
    assert found.numpy().tobytes() == expected.numpy().tobytes()


OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (2, 3), "stride": (3, 2), "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": 2, "dilation": 3, "stride": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [av.float32, av.float64, av.bfloat16], ids=repr)
def test_a_loss_that_is_read_first_changes_no_bit(options, dtype):
    for seed in range(2):
        x = images(dtype, seed)
        expected = gradient(x, False, **options)
        same(gradient(x, True, **options), expected)
        with av.without("mask_of_relu", "mask_of_winners", "narrow positions"):
            same(gradient(x, True, **options), expected)


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, av.abs])
def test_whatever_comes_before_the_pooling_keeps_its_gradient(activation):
    def function(x):
        return F.max_pool2d(activation(x * 1.5), 2)

    x = images()
    same(gradient(x, True, function), gradient(x, False, function))


@pytest.mark.parametrize("count", [1, 3])
def test_pooling_of_other_ranks(count):
    pool = {1: F.max_pool1d, 3: F.max_pool3d}[count]

    def function(x):
        return pool(F.relu(x * 1.5), 2)

    x = images(shape=(2, 3, 7, 6, 8)[: count + 2])
    same(gradient(x, True, function), gradient(x, False, function))


def test_masks_are_kept_where_the_pooling_picked():
    x = images().requires_grad_()
    loss = pooled(x, kernel_size=2).nansum()
    before = kept(loss)
    loss.item()
    assert before == ["bool"]
    assert kept(loss) == ["bool", "int8"]


def test_without_rules_they_are_not():
    x = images().requires_grad_()
    loss = pooled(x, kernel_size=2).nansum()
    with av.without("simplify"):
        loss.item()
    assert kept(loss) == ["bool"]


def held_activation(x):
    between = F.relu(x * 1.5)
    return F.max_pool2d(between, 2), between


def two_readers(x):
    between = F.relu(x * 1.5)
    return F.max_pool2d(between, 2) + between.mean(), None


def hooked(x):
    between = F.relu(x * 1.5)
    between.register_hook(lambda g: g + 1)
    return F.max_pool2d(between, 2), None


def retained(x):
    between = F.relu(x * 1.5)
    between.retain_grad()
    return F.max_pool2d(between, 2), None


def pooled_twice(x):
    between = F.relu(x * 1.5)
    return F.max_pool2d(between, 2) + F.max_pool2d(between, 3, stride=2, padding=1)[..., :4, :5], 0


def viewed(x):
    between = F.relu(x * 1.5)
    return F.max_pool2d(between, 2), between[0].T


def written(x):
    between = F.relu(x * 1.5)
    between.mul_(2.0)
    return F.max_pool2d(between, 2), None


def in_place(x):
    return F.max_pool2d(F.relu(x * 1.5, inplace=True), 2), None


@pytest.mark.parametrize(
    "function",
    [held_activation, two_readers, hooked, retained, pooled_twice, viewed, written, in_place],
)
def test_who_else_can_reach_the_activation_keeps_it(function):
    found = []
    for early in (False, True):
        x = images().requires_grad_()
        y, also = function(x)
        loss = (y * (av.arange(1.0, y.numel() + 1).reshape(y.shape) - 7.5)).sum()
        if early:
            loss.item()
        if also is not None and function is not pooled_twice:
            loss = loss + (also * 0.5).sum()  # a second reader, after the first ran
        loss.backward()
        found.append(x.grad)
    same(*found)


def test_an_activation_that_is_held_can_be_hooked_later():
    found = []
    for early in (False, True):
        x = images().requires_grad_()
        y, between = held_activation(x)
        loss = y.sum()
        if early:
            loss.item()
        between.register_hook(lambda g: g * 2 + 1)
        loss.backward()
        found.append(x.grad)
    same(*found)


def test_a_graph_that_is_retained_is_walked_again():
    x = images().requires_grad_()
    loss = pooled(x, kernel_size=2).sum()
    loss.item()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    same(x.grad, once + once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_of_gradients():
    found = []
    for early in (False, True):
        x = av.tensor(np.random.default_rng(0).normal(size=(2, 3, 6, 6))).requires_grad_()
        loss = (F.max_pool2d(F.relu(x * x), 2) ** 2).sum()
        if early:
            loss.item()
        (g,) = av.autograd.grad(loss, x, create_graph=True)
        (g**3).sum().backward()
        found.append(x.grad)
    same(*found)


def test_a_hook_that_reads_a_value_in_the_middle_of_the_walk():
    found = []
    for early in (False, True):
        x = images().requires_grad_()
        y = x * 1.5
        y.register_hook(lambda g: g * float(g.nan_to_num(0.0, 1.0, 1.0).sum().item()))
        z = F.max_pool2d(F.relu(y), 2)
        z.register_hook(lambda g: g * g.sum().item())
        loss = z.sum()
        del y, z
        if early:
            loss.item()
        loss.backward()
        found.append(x.grad)
    same(*found)


def test_a_gradient_asked_of_what_lies_before():
    found = []
    for early in (False, True):
        x = images().requires_grad_()
        y = x * 1.5
        loss = F.max_pool2d(F.relu(y), 2).sum()
        if early:
            loss.item()
        found.append(av.autograd.grad(loss, y)[0])
    same(*found)


def test_another_thread_reads_the_loss_first():
    x = images().requires_grad_()
    loss = pooled(x, kernel_size=2).sum()
    reader = threading.Thread(target=loss.item)
    reader.start()
    reader.join()
    assert kept(loss) == ["bool", "int8"]
    loss.backward()
    again = images().requires_grad_()
    pooled(again, kernel_size=2).sum().backward()
    same(x.grad, again.grad)


def test_work_that_runs_one_by_one_in_the_middle():
    x = images().requires_grad_()
    y = pooled(x, kernel_size=2)
    z = pooled(x, kernel_size=3)
    with av.eager():
        loss = y.sum() + z.sum()
    del y, z
    loss.backward()
    again = images().requires_grad_()
    (pooled(again, kernel_size=2).sum() + pooled(again, kernel_size=3).sum()).backward()
    same(x.grad, again.grad)


@pytest.mark.parametrize("batch", [5, 1, 3])
def test_batches_of_other_sizes(batch):
    x = images(shape=(batch, 3, 8, 8))
    same(gradient(x, True, kernel_size=2), gradient(x, False, kernel_size=2))


def small_net(inplace=False):
    av.manual_seed(0)
    return av.nn.Sequential(
        av.nn.Conv2d(1, 4, 3, padding=1), av.nn.ReLU(), av.nn.MaxPool2d(2),
        av.nn.Conv2d(4, 8, 3), av.nn.ReLU(inplace=inplace), av.nn.MaxPool2d(2), av.nn.Flatten(),
        av.nn.Linear(32, 3), av.nn.LeakyReLU(0.3),
    )  # fmt: skip


@pytest.mark.parametrize("inplace", [False, True])
def test_a_training_step_with_the_loss_read_first(inplace):
    found = []
    for early in (False, True):
        net = small_net(inplace)
        optimizer = av.optim.Adam(net.parameters(), lr=0.01)
        x, y = av.rand(6, 1, 12, 12), av.tensor([0, 1, 2, 0, 1, 2])
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            if early:
                loss.item()
            loss.backward()
            optimizer.step()
        found.append([parameter.detach().numpy().tobytes() for parameter in net.parameters()])
    assert found[0] == found[1]


def test_layers_in_a_row_keep_less_than_their_masks():
    net = small_net()
    loss = net(av.rand(6, 1, 12, 12)).sum()
    (history,) = [one for one in loss.grad_fn.inputs if one is not None]

    def kept_bytes():
        made = [value for value in history._kept if value.dtype.itemsize == 1]
        return sum(value.nbytes for value in made)

    before = kept_bytes()
    loss.item()
    assert 0 < kept_bytes() < before / 2


def test_gradients_of_gradients_of_layers_in_a_row():
    found = []
    for early in (False, True):
        net, x = small_net(), av.rand(6, 1, 12, 12).requires_grad_()
        loss = (net(x) ** 3).sum()
        if early:
            loss.item()
        parameters = list(net.parameters())
        given = av.autograd.grad(loss, [x, *parameters], create_graph=True)
        sum((g**2).sum() for g in given).backward()
        found.append([one.grad.numpy().tobytes() for one in (x, *parameters)])
    assert found[0] == found[1]


def test_layers_in_a_row_are_walked_twice_and_with_parameters_that_changed():
    found = []
    for early in (False, True):
        net, x = small_net(), av.rand(6, 1, 12, 12).requires_grad_()
        loss = (net(x) ** 2).sum()
        if early:
            loss.item()
        loss.backward(retain_graph=True)
        with av.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2.0)
        if early:
            loss.item()
        loss.backward()
        found.append([one.grad.numpy().tobytes() for one in (x, *net.parameters())])
    assert found[0] == found[1]


def test_a_walk_that_makes_the_pooling_run():
    found = []
    for early in (False, True):
        x = images(shape=(2, 3, 8, 8)).requires_grad_()
        g = av.arange(1.0, 97.0).reshape(2, 3, 4, 4) - 7.5
        g.tolist()
        y = pooled(x, kernel_size=2)
        if early:
            with av.eager():
                y.backward(g)
        else:
            y.backward(g)
        found.append(x.grad)
    same(*found)


def test_layers_whose_joined_gradient_has_more_steps():
    found = []
    for early in (False, True):
        x = images(shape=(3, 2, 9, 12)).requires_grad_()
        net = av.nn.Sequential(av.nn.LeakyReLU(0.2), av.nn.MaxPool2d(3, stride=1))
        loss = (net(x) ** 2).sum()
        if early:
            loss.item()
        loss.backward()
        found.append(x.grad)
    same(*found)

"""Random numbers: the right distributions, reproducible, never the same twice, fed from outside."""

import numpy as np
import pytest

import avalon as av


def draw(count=20_000, **options):
    return {
        "uniform": av.rand(count, **options).numpy(),
        "normal": av.randn(count, **options).numpy(),
    }


@pytest.mark.parametrize("dtype", [av.float32, av.float64])
def test_distributions(dtype):
    av.manual_seed(5)
    found = draw(dtype=dtype)
    assert found["uniform"].min() >= 0
    assert found["uniform"].max() < 1
    assert abs(found["uniform"].mean() - 0.5) < 0.01
    assert abs(found["uniform"].var() - 1 / 12) < 0.002
    assert abs(found["normal"].mean()) < 0.03
    assert abs(found["normal"].std() - 1) < 0.02
    assert abs((np.abs(found["normal"]) < 1).mean() - 0.6827) < 0.02
    assert np.isfinite(found["normal"]).all()


def test_bits_are_philox():
    """The first words of Philox4x32-10 with counter and key 0, as its authors publish them."""
    generator = av.Generator().manual_seed(0)
    words = av.random.bits((4,), generator).to(av.int64).tolist()
    assert [word & 0xFFFFFFFF for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_the_same_seed_gives_the_same_numbers_and_a_draw_none_twice():
    av.manual_seed(1)
    first = [av.rand(3).numpy(), av.rand(3).numpy(), av.randn(2).numpy()]
    av.manual_seed(1)
    again = [av.rand(3).numpy(), av.rand(3).numpy(), av.randn(2).numpy()]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(first[0], first[1])


def test_counters_are_reserved_even_if_nothing_is_computed():
    generator = av.Generator().manual_seed(2)
    av.rand(5, generator=generator)  # never read
    late = av.rand(3, generator=generator).numpy()
    generator.manual_seed(2)
    read = av.rand(5, generator=generator).numpy()
    assert np.array_equal(av.rand(3, generator=generator).numpy(), late)
    assert read.shape == (5,)


def test_state():
    generator = av.Generator().manual_seed(-3)
    av.rand(7, generator=generator)
    state = generator.get_state()
    expected = av.rand(4, generator=generator).numpy()
    other = av.Generator()
    other.set_state(state)
    assert np.array_equal(av.rand(4, generator=other).numpy(), expected)
    with pytest.raises(RuntimeError, match="16 elements"):
        other.set_state(av.zeros(3))
    before = av.get_rng_state()
    with av.random.fork_rng():
        av.rand(3)
    assert av.equal(av.get_rng_state(), before)
    assert av.random.draw_seed() != av.random.draw_seed()


def test_integers_permutations_and_choices():
    av.manual_seed(4)
    found = av.randint(-3, 4, (3000,)).numpy()
    assert set(found.tolist()) == set(range(-3, 4))
    assert np.bincount(found + 3).min() > 330
    large = av.randint(0, 1 << 40, (200,)).numpy()
    assert large.max() > 1 << 38
    assert sorted(av.randperm(50).tolist()) == list(range(50))
    assert av.randperm(50).tolist() != av.randperm(50).tolist()
    weights = av.tensor([[0.0, 1.0, 3.0], [1.0, 1.0, 0.0]])
    drawn = av.multinomial(weights, 4000, replacement=True).numpy()
    assert abs((drawn[0] == 2).mean() - 0.75) < 0.04
    assert (drawn[0] != 0).all()
    assert (drawn[1] != 2).all()
    few = av.multinomial(av.tensor([0.1, 0.0, 0.5, 0.4]), 3).tolist()
    assert sorted(few) == [0, 2, 3]
    with pytest.raises(RuntimeError, match="without replacement"):
        av.multinomial(av.ones(3), 4)


def test_in_place_fills_and_bernoulli():
    av.manual_seed(6)
    x = av.empty(5000)
    assert 2 <= x.uniform_(2, 3).min().item() < 2.01
    assert abs(x.normal_(4, 0.5).mean().item() - 4) < 0.05
    assert abs(x.bernoulli_(0.3).mean().item() - 0.3) < 0.03
    assert abs(x.exponential_(2.0).mean().item() - 0.5) < 0.03
    assert set(av.bernoulli(av.tensor([0.0, 1.0])).tolist()) == {0.0, 1.0}
    spread = av.normal(av.zeros(4000), av.ones(4000) * 3)
    assert abs(spread.std().item() - 3) < 0.15


def test_injected_draws():
    def source(kind, shape, dtype):
        return np.full(shape, {"normal": 2.0, "bernoulli": 1.0}[kind])

    with av.random.inject(source):
        assert av.randn(2, 2).tolist() == [[2.0, 2.0], [2.0, 2.0]]
        assert av.nn.functional.dropout(av.ones(3), 0.5).tolist() == [2.0, 2.0, 2.0]
    with (
        av.random.inject(iter([[1.0]])),
        pytest.raises(RuntimeError, match=r"needs shape \(3,\), the source gave \(1,\)"),
    ):
        av.rand(3)

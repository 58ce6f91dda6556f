"""Formulas of sizes: equal to the integers they stand for, and honest about what was supposed."""

import random

import pytest

from avalon.size import Size, Sizes, few, hint, later, must_be_long, same


def symbols(*samples):
    sizes = Sizes()
    return sizes, [sizes.symbol(sample, 1 << 20) for sample in samples]


def random_formula(rng, leaves, depth):
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(leaves) if rng.random() < 0.8 else rng.randint(0, 12)
    one, other = (random_formula(rng, leaves, depth - 1) for _ in range(2))
    match rng.randrange(6):
        case 0:
            return one + other
        case 1:
            return one - rng.randint(0, 9)
        case 2:
            return one * other
        case 3:
            return one // rng.randint(1, 9)
        case 4:
            return one % rng.randint(1, 9)
        case _:
            return -(-one // rng.choice(leaves))


@pytest.mark.parametrize("seed", range(200))
def test_a_formula_is_the_integer_wherever_its_conditions_hold(seed):
    sizes, leaves = symbols(12, 5)
    made = random_formula(random.Random(seed), leaves, 4)
    evaluate, holds = sizes.function([made]), sizes.condition()
    assert hint(made) == evaluate(12, 5)[0]
    served = 0
    for values in [(12, 5), (1, 1), (2, 7), (60, 3), (100, 100), (9, 64)]:
        if holds(*values):
            served += 1
            assert evaluate(*values) == (random_formula(random.Random(seed), values, 4),)
    assert served


@pytest.mark.parametrize("seed", range(100))
def test_an_answer_holds_wherever_its_conditions_hold(seed):
    rng = random.Random(seed)
    sizes, leaves = symbols(12, 5)
    one = random_formula(random.Random(seed), leaves, 3)
    other = random_formula(random.Random(seed + 1000), leaves, 2)
    question = rng.choice(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"])
    if not isinstance(one, Size):
        return
    answer = getattr(one, question)(other)
    holds = sizes.condition()
    for values in [(12, 5), (2, 2), (2, 7), (60, 3), (100, 100), (9, 64)]:
        if (
            holds(*values)
            and (answer or question != "__eq__")
            and (not answer or question != "__ne__")
        ):
            left = random_formula(random.Random(seed), values, 3)
            right = random_formula(random.Random(seed + 1000), values, 2)
            assert getattr(left, question)(right) is answer


def test_what_holds_for_all_sizes_is_no_condition():
    sizes, (n,) = symbols(100)
    before = len(sizes.conditions)
    assert n != 0
    assert n * 8 > n
    assert (n * 12) // 4 == n * 3
    assert (n - 1) // n == 0
    assert -(-(n * 64) // 32) == 2 * n
    assert n * 6 % 3 == 0
    assert not few(n, 1000)
    assert same(n + n, 2 * n)
    assert not same(n, 100)
    assert len(sizes.conditions) == before


def test_questions_about_numbers_become_conditions():
    sizes, (n,) = symbols(100)
    assert n * 4 <= 4096
    assert range(n) == range(100)
    holds = sizes.condition()
    assert holds(100)
    assert not holds(99)
    assert not holds(2000)
    sizes, (n,) = symbols(100)
    must_be_long(n)
    assert sizes.condition()(7)
    assert not sizes.condition()(1)


def test_only_a_question_about_one_element_has_no_condition():
    sizes, (n, m) = symbols(100, 7)
    assert n > 1
    assert n * 4 > 4
    assert n * m != 1
    assert sizes.condition()(1, 1)
    assert n * 4 >= 8  # a tile of 8 rows: one element would be 4
    assert sizes.condition()(2, 1)
    assert not sizes.condition()(1, 1)


def test_a_division_by_an_empty_extent_fails_the_condition():
    sizes, (n, m) = symbols(7, 5)
    assert (n * m) // (n - 2) * 2 > 9
    assert sizes.condition()(8, 5)
    assert not sizes.condition()(2, 5)


def test_symbols_of_two_compilations_are_never_equal():
    (_, (n,)), (_, (m,)) = symbols(100), symbols(100)
    assert n != m
    assert m not in {n: 1}


def test_functions_wait_for_the_sizes():
    sizes, (n,) = symbols(100)
    made = later(_blocks, n, (3, n))
    assert hint(made) == 34
    assert later(_blocks, 10, (3, 2)) == 4
    assert sizes.function([made, sizes.largest([n, 50, 2 * n])])(10) == (4, 50)
    assert sizes.function([sizes.largest([n, 50])])(60) == (60,)


def _blocks(extent, parts):
    return -(-extent // parts[0])

import itertools

import torch

from foveal.sampling.randomness import generator


def numbers(*place):
    return torch.rand(8, generator=generator(*place)).tolist()


def test_same_place_gives_the_same_draws_whatever_was_drawn_before():
    first = numbers(0, 7, 1, "labelled", "patches")
    torch.rand(100)
    assert numbers(0, 7, 1, "labelled", "patches") == first


def test_every_argument_gives_draws_of_its_own():
    places = [
        *itertools.product([0, 1], [0, 1], [0, 1], ["labelled", "target"]),
        (0, 0, 0),
        (0, 0, 0, "labelled", "patches"),
        (0, 0, 0, "labelledpatches"),
        (0, 11, 1),
        (0, 1, 11),
    ]
    assert len({tuple(numbers(*place)) for place in places}) == len(places)


def test_first_draws_of_successive_steps_are_uniform_and_unrelated():
    first = torch.tensor([numbers(3, step, 0, "s")[0] for step in range(4000)])
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(first.std() - 12**-0.5) < 0.01
    assert abs(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1]) < 0.05


def test_draws_stay_those_of_earlier_releases():
    draws = torch.randint(1000, (4,), generator=generator(0, 0, 0, "labelled"))
    assert draws.tolist() == [587, 634, 430, 540]

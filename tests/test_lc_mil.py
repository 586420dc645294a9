"""LC-MIL against the paper's equations, by independent and slower means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare
from test_refiners_contract import slide
from torch import Tensor

from recontour.refiners.attention_mil import AttentionMil, focal_slope
from recontour.refiners.base import ZScore, table
from recontour.refiners.lc_mil import LcMil, draw_bags


def small(**options: Any) -> LcMil:
    return LcMil(**{"bags": 60, "blocks": 3, "n_seeds": 1, "hidden": 12, "attention": 5, **options})


def test_bags_are_balanced_binomial_never_empty_and_from_their_own_side() -> None:
    patches, _ = slide(k=2)
    cells = table(
        [dataclasses.replace(patches, labels=np.where(patches.grid.rows == 0, -1, patches.labels))]
    )
    blocks = list(draw_bags(np.random.default_rng(0), cells, 10_000, 10, 20))
    assert [len(b.sides) for b in blocks] == [1000] * 10
    for block in blocks:
        assert np.bincount(block.sides).tolist() == [500, 500]
        assert not np.array_equal(block.sides, np.sort(block.sides))
        assert len(block.index) == block.lengths.sum()
        np.testing.assert_array_equal(
            cells.labels[block.index], np.repeat(block.sides, block.lengths)
        )
    lengths = np.concatenate([b.lengths for b in blocks])
    assert lengths.min() >= 1
    seen = np.bincount(lengths, minlength=21)[1:]
    expected = binom.pmf(np.arange(21), 20, 0.5)
    expected[1] += expected[0]
    middle = slice(3, 16)  # lengths 4 to 16: enough of each to be tested
    share = expected[1:][middle] / expected[1:][middle].sum()
    assert chisquare(seen[middle], share * seen[middle].sum()).pvalue > 0.01


def test_bags_of_at_most_one_cell_hold_one() -> None:
    patches, _ = slide()
    (block,) = draw_bags(np.random.default_rng(0), table([patches]), 200, 1, 1)
    assert set(block.lengths) == {1}


def test_instances_are_drawn_uniformly_with_replacement_or_by_trust() -> None:
    patches, _ = slide(side=4)
    tenth = np.where(patches.grid.rows < 2, 1.0, 0.1).astype(np.float32)
    for trust, share in ((None, 0.5), (tenth, 1 / 1.1)):
        labels = (patches.grid.cols >= 2).astype(np.int8)
        cells = table([dataclasses.replace(patches, labels=labels, trust=trust)])
        (block,) = draw_bags(np.random.default_rng(0), cells, 4000, 1, 20)
        counts = np.bincount(block.index, minlength=16) / len(block.index)
        above = counts[patches.grid.rows < 2]
        assert above.sum() == pytest.approx(share, abs=0.01)
        np.testing.assert_allclose(above, share / 8, atol=0.005)


def test_three_classes_share_the_bags() -> None:
    patches, _ = slide(k=3)
    blocks = list(draw_bags(np.random.default_rng(0), table([patches]), 1000, 10, 20))
    for block in blocks:
        assert np.ptp(np.bincount(block.sides, minlength=3)) <= 1
    assert np.bincount(np.concatenate([b.sides for b in blocks])).tolist() == [334, 333, 333]


def focal(p_true: float, gamma: float) -> float:
    p = min(max(p_true, 1e-5), 1 - 1e-5)
    return -((1 - p) ** gamma) * math.log(p)


@pytest.mark.parametrize("p1", [1e-7, 0.03, 0.19, 0.21, 0.5, 0.79, 0.81, 0.99, 1 - 1e-7])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rule", ["code", "paper"])
def test_focal_loss_has_the_slope_of_its_formula(p1: float, side: int, rule: str) -> None:
    p_true = p1 if side == 1 else 1 - p1
    asked = p_true if rule == "code" else p1
    gamma = 5.0 if asked < 0.2 else 3.0
    score = math.log(p1 / (1 - p1))

    def loss(s: float) -> float:
        p = 1 / (1 + math.exp(-s))
        return focal(p if side == 1 else 1 - p, gamma)

    expected = (loss(score + 1e-5) - loss(score - 1e-5)) / 2e-5
    probs = torch.tensor([[1 - p1, p1]], dtype=torch.float64)
    slope = focal_slope(probs, torch.tensor([side]), rule)
    assert float(slope[0, 1]) == pytest.approx(expected, abs=1e-6)
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)


class Naive(torch.nn.Module):
    """The model as one would write it from the paper, one bag at a time, with autograd."""

    def __init__(self, start: AttentionMil) -> None:
        super().__init__()
        for name, value in start.weights.items():
            # On its own storage: the fused model updates its weights in place.
            self.register_parameter("p_" + name, torch.nn.Parameter(value.clone().double()))

    def forward(self, bag: Tensor) -> Tensor:
        h = torch.relu(bag @ self.p_A + self.p_a)
        w = torch.softmax((torch.tanh(h @ self.p_V) @ self.p_W)[:, 0], 0)
        score = (w[:, None] * h).sum(0) @ self.p_g + self.p_c[0]
        if len(score) > 1:
            return torch.softmax(score, 0)
        return torch.stack([1 - torch.sigmoid(score[0]), torch.sigmoid(score[0])])

    def loss(self, bag: Tensor, side: int, rule: str) -> Tensor:
        probs = self(bag)
        p = probs[side].clamp(1e-5, 1 - 1e-5)
        asked = probs[side] if rule == "code" else 1 - probs[0]
        gamma = 5 if asked.item() < 0.2 else 3
        return -((1 - p) ** gamma) * torch.log(p)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("rule", ["code", "paper"])
@pytest.mark.parametrize("bags_a_step", [1, 7])
def test_training_gives_the_weights_of_the_naive_loop(k: int, rule: str, bags_a_step: int) -> None:
    patches, _ = slide(k=k, noise=0.3)
    method = small(seed=5, batched=bags_a_step, focal_gamma=rule, lr=1e-2)
    cells = table([patches])
    scale = ZScore.of(cells)

    rng = np.random.default_rng([5, 0])
    naive = Naive(AttentionMil(rng, cells.dim, 12, 5, k, rule))
    adam = torch.optim.Adam(naive.parameters(), lr=1e-2 * bags_a_step**0.5, weight_decay=1e-4)
    x = patches.features.astype(np.float64)
    x = torch.from_numpy((x - x.mean(axis=0)) / x.std(axis=0))
    for block in draw_bags(rng, cells, 60, 3, 20):
        bags = np.split(block.index, np.cumsum(block.lengths)[:-1])
        for i in range(0, len(bags), bags_a_step):
            adam.zero_grad()
            pairs = list(zip(bags, block.sides, strict=True))[i : i + bags_a_step]
            torch.stack(
                [naive.loss(x[bag], int(side), rule) for bag, side in pairs]
            ).mean().backward()
            adam.step()
        for group in adam.param_groups:
            group["lr"] /= 2

    trained = method.train(cells, scale, 0)
    for name, found in trained.weights.items():
        expected = getattr(naive, "p_" + name).detach().numpy()
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3, err_msg=name)
    probs = method.fit([patches]).predict_proba(patches)
    alone = np.stack([naive(row[None]).detach().numpy() for row in x])
    np.testing.assert_allclose(probs, alone, atol=2e-3)


@pytest.mark.parametrize("k", [2, 3])
def test_attention_drops_out_for_a_bag_of_one(k: int) -> None:
    model = AttentionMil(np.random.default_rng(0), 6, 12, 5, k, "code")
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32))
    alone = model.learn(x, torch.eye(8, dtype=torch.bool), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(alone, model.singletons(x))
    model.weights["V"].mul_(100)
    torch.testing.assert_close(alone, model.singletons(x))


def test_the_order_within_a_bag_and_the_company_of_others_do_not_matter() -> None:
    model = AttentionMil(np.random.default_rng(0), 6, 12, 5, 2, "code")
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32))
    member = torch.tensor([[True] * 4 + [False] * 3, [False] * 4 + [True] * 3])
    both = model.learn(x, member, torch.tensor([0, 1]))
    first = model.learn(x[:4].flip(0), torch.ones(1, 4, dtype=torch.bool), torch.tensor([0]))
    torch.testing.assert_close(both[:1], first)


def test_a_model_does_not_depend_on_how_many_there_are() -> None:
    patches, _ = slide()
    cells = table([patches])
    scale = ZScore.of(cells)
    alone = [small(seed=3).train(cells, scale, i).singletons for i in range(3)]
    x = torch.from_numpy(scale(cells.rows(np.arange(len(cells)))))
    mean = np.mean([predict(x).numpy() for predict in alone], axis=0)
    together = small(seed=3, n_seeds=3).fit([patches]).predict_proba(patches)
    np.testing.assert_allclose(together, mean, atol=1e-5)
    assert not torch.equal(alone[0](x), alone[1](x))


def test_another_seed_is_another_answer() -> None:
    patches, _ = slide()
    first, other = (small(seed=s).fit([patches]).predict_proba(patches) for s in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("bags_a_step", [False, True, 4])
def test_each_number_of_bags_a_step_cleans_the_labels(bags_a_step: bool | int) -> None:
    patches, truth = slide(noise=0.3)
    probs = LcMil(batched=bags_a_step, n_seeds=2).fit([patches]).predict_proba(patches)
    assert np.mean(probs.argmax(axis=1) == truth) > 0.94


def test_standardisation_is_exact_for_far_offsets_and_chunks() -> None:
    rng = np.random.default_rng(0)
    patches, _ = slide(side=80)
    far = (1000 + rng.normal(size=(6400, 12))).astype(np.float32)
    halves = [
        dataclasses.replace(patches, features=far[:5000], labels=patches.labels[:5000]),
        dataclasses.replace(patches, features=far[5000:], labels=patches.labels[5000:]),
    ]
    scale = ZScore.of(table(halves, "cell"))
    np.testing.assert_allclose(scale.mean, far.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(scale.std, far.std(axis=0, dtype=np.float64), rtol=1e-4)

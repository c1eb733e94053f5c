"""Plots of a report: who is on the line of the best, and names that can be read."""

import numpy as np
import pytest

from ptmo_secure.offload.compare import Summary
from ptmo_secure.offload.plots import front, pareto, spread

pytest.importorskip("matplotlib")


def summary(policy, usd, quality, violations=0.0, budget="1"):
    reward = (quality, quality, quality)
    return Summary(policy, budget, 1, reward, quality, usd, 1.0, 0.0, violations, None, {})


def test_the_front_holds_what_no_other_point_surpasses():
    points = [(2.0, 0.7), (1.0, 0.5), (1.0, 0.6), (3.0, 0.65), (4.0, 0.7), (5.0, 0.9)]
    assert front(points) == [(1.0, 0.6), (2.0, 0.7), (5.0, 0.9)]


def test_names_keep_their_order_and_their_distance():
    wanted = [0.1, 0.1, 0.11, 0.5, 0.99, 1.0, 1.0]
    places = spread(wanted, 0.05, 0.0, 1.0)
    assert (np.diff(places) >= 0.05 - 1e-12).all() and places[3] == 0.5
    assert min(places) >= 0 and max(places) <= 1 + 1e-12
    crowded = spread([0.5] * 41, 0.05, 0.0, 1.0)
    assert np.allclose(np.diff(crowded), 1 / 40)


def test_a_policy_over_its_budget_is_hollow_and_not_on_the_line_of_the_best(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    group = [summary("local-only", 0.0, 0.4), summary("greedy", 0.1, 0.6)]
    group += [summary("tmo-ppo", 0.05, 0.9, violations=0.5), summary("query-oracle", 0.02, 0.8)]
    assert pareto(group, "usd", "dollars", tmp_path / "a.png")
    (axes,) = drawn[0].axes
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [0.0, 0.1] and list(line.get_ydata()) == [0.4, 0.6]
    hollow = [len(mark.get_facecolors()) == 0 for mark in axes.collections]
    assert hollow == [False, False, True, False]
    assert [mark.get_label() for mark in axes.collections][2] == "TMO's learners, over budget"
    assert {text.get_text() for text in axes.texts} == {"local-only", "greedy", "query-oracle"}


def test_a_cost_that_all_have_alike_has_no_plot(tmp_path):
    path = tmp_path / "a.png"
    group = [summary("greedy", 0.1, 0.6), summary("tfidf", 0.2, 0.7)]
    assert not pareto(group, "leakage", "leaked", path) and not path.exists()
    assert pareto(group, "usd", "dollars", path) and path.read_bytes()[:4] == b"\x89PNG"

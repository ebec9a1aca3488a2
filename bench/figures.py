# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""The figures of bench/run and bench/run_bpf: how far repeated measurements lie apart, one way of measuring beside another,
and the targets that a run is held to. tests/scripts/bench_figures_test.py tests it."""

import statistics


def spread(values):
    """Half the distance between the quartiles, in percent of the median; 0 of fewer than three values."""
    if len(values) < 3:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return 50 * (high - low) / statistics.median(values)


def paired_ratio(values, others):
    """The median, over the rounds, of a value over the other way's value in the same round. What else the machine does in a
    round affects both."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def slope(points):
    """Least squares over (x, y): what y grows by for each further x."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


class Targets:
    """Figures with a limit each, and whether they are within it."""

    def __init__(self):
        self.targets = []

    def add(self, what, value, limit, unit, at_most=True):
        met = value <= limit if at_most else value >= limit
        self.targets.append({"what": what, "value": value, "limit": limit, "unit": unit, "at_most": at_most, "met": met})

    def lines(self):
        """A line for each, to be printed."""
        return [
            f"{'met   ' if target['met'] else 'MISSED'} {target['what']}: {target['value']:.2f} {target['unit']}"
            f" ({'at most' if target['at_most'] else 'at least'} {target['limit']})"
            for target in self.targets
        ]

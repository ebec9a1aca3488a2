#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Tests bench/figures.py by hand-computed values.

    bench_figures_test.py BENCH_FOLDER
"""

import sys
import unittest

sys.path.insert(0, sys.argv.pop(1))
import figures  # noqa: E402


class Spread(unittest.TestCase):
    def test_half_the_quartile_distance_in_percent_of_the_median(self):
        # Quartiles 2, 4 and 6: half of 4 is half of the median.
        self.assertAlmostEqual(figures.spread([1, 2, 3, 4, 5, 6, 7]), 50)
        self.assertAlmostEqual(figures.spread([7, 1, 6, 2, 5, 3, 4]), 50, msg="the order of the values does not matter")
        self.assertAlmostEqual(figures.spread([10, 20, 30, 40, 50, 60, 70]), 50, msg="nor does the unit")

    def test_one_outlier_does_not_change_it(self):
        self.assertAlmostEqual(figures.spread([1, 2, 3, 4, 5, 6, 7000]), 50)

    def test_equal_and_few_values_have_none(self):
        for values in ([5, 5, 5, 5], [1, 9], [3], []):
            self.assertEqual(figures.spread(values), 0.0, values)


class PairedRatio(unittest.TestCase):
    def test_each_value_is_over_that_of_its_round(self):
        # The second round is ten times as slow for both. The ratio of the medians would be 2/20.
        self.assertAlmostEqual(figures.paired_ratio([1, 20, 2], [2, 40, 20]), 0.5)

    def test_rounds_without_a_pair_are_an_error(self):
        with self.assertRaises(ValueError):
            figures.paired_ratio([1, 2], [1])


class Slope(unittest.TestCase):
    def test_points_on_a_line_give_its_slope(self):
        self.assertAlmostEqual(figures.slope([(8, 100 + 8 * 25), (30, 100 + 30 * 25), (120, 100 + 120 * 25)]), 25)

    def test_it_is_least_squares_between_points(self):
        self.assertAlmostEqual(figures.slope([(0, 0), (1, 0), (2, 3)]), 1.5)


class TargetsTest(unittest.TestCase):
    def test_a_limit_itself_is_met_from_either_side(self):
        targets = figures.Targets()
        targets.add("a frame", 30, 30, "ns")
        targets.add("a pair", 30.01, 30, "ns")
        targets.add("speed", 35, 35, "×", at_most=False)
        targets.add("rate", 34.99, 35, "×", at_most=False)
        self.assertEqual([target["met"] for target in targets.targets], [True, False, True, False])
        self.assertEqual(
            targets.lines(),
            [
                "met    a frame: 30.00 ns (at most 30)",
                "MISSED a pair: 30.01 ns (at most 30)",
                "met    speed: 35.00 × (at least 35)",
                "MISSED rate: 34.99 × (at least 35)",
            ],
        )
        self.assertEqual(
            targets.targets[0],
            {"what": "a frame", "value": 30, "limit": 30, "unit": "ns", "at_most": True, "met": True},
        )


if __name__ == "__main__":
    unittest.main()

"""Tests of compare.py: a judge that lets everything pass would look like a good server.

Run with: python3 -m unittest discover --start-directory tests/autobahn
"""

import pathlib
import unittest

import compare


def result(behavior, close=None, **more):
    """A case's entry in the suite's index."""
    return {"behavior": behavior, "behaviorClose": close or behavior, **more}


def unmasked_report(**changes):
    """What the suite reports about a server that does it right."""
    report = {
        "rxOctetStats": {"129": 1, "4": 1},
        "rxFrameStats": {"8": 1},
        "received": [],
        "closedByMe": False,
        "failedByMe": False,
        "remoteCloseCode": 1002,
    }
    return {**report, **changes}


class Expected(unittest.TestCase):
    """Results against expectations."""

    def judge(self, got, want):
        regressions, improvements = compare.judge_expected({"1.1.1": got}, {"1.1.1": want})
        return len(regressions), len(improvements)

    def test_same(self):
        self.assertEqual(self.judge(result("OK"), result("OK")), (0, 0))
        self.assertEqual(self.judge(result("INFORMATIONAL"), result("INFORMATIONAL")), (0, 0))

    def test_worse(self):
        self.assertEqual(self.judge(result("NON-STRICT", "OK"), result("OK")), (1, 0))
        self.assertEqual(self.judge(result("OK", "WRONG CODE"), result("OK")), (1, 0))
        self.assertEqual(self.judge(result("FAILED"), result("NON-STRICT")), (1, 0))
        self.assertEqual(self.judge(result("UNIMPLEMENTED"), result("OK")), (1, 0))
        self.assertEqual(self.judge({}, result("OK")), (1, 0))

    def test_different_but_no_better(self):
        self.assertEqual(self.judge(result("NON-STRICT", "OK"), result("OK", "NON-STRICT")), (1, 0))

    def test_better(self):
        self.assertEqual(self.judge(result("OK"), result("NON-STRICT", "OK")), (0, 1))

    def test_missing_and_unknown(self):
        self.assertEqual(len(compare.judge_expected({}, {"1.1.1": result("OK")})[0]), 1)
        self.assertEqual(len(compare.judge_expected({"1.1.1": result("OK")}, {})[0]), 1)

    def test_exceptions_need_a_reason(self):
        compare.check_expectations({"1": result("OK"), "2": result("NON-STRICT", reason="allowed")})
        with self.assertRaises(compare.BadReport):
            compare.check_expectations({"1": result("NON-STRICT")})
        with self.assertRaises(compare.BadReport):
            compare.check_expectations({"1": result("FAILED", reason="we like it so")})

    def test_the_checked_in_expectations(self):
        path = pathlib.Path(__file__).with_name("expected.json")
        expected = compare.json.loads(path.read_text())
        compare.check_expectations(expected)
        self.assertEqual(len(expected), 301)


class Unmasked(unittest.TestCase):
    """Servers that do not fail a connection with unmasked frames."""

    def test_right(self):
        self.assertIsNone(compare.why_not_failed(unmasked_report()))

    def test_wrong(self):
        for changes in (
            {"rxOctetStats": {}},
            {"rxFrameStats": {"1": 1, "8": 1}},
            {"received": [["message", "x", False]]},
            {"closedByMe": True},
            {"failedByMe": True},
            {"remoteCloseCode": 1000},
            {"remoteCloseCode": None},
        ):
            self.assertIsNotNone(compare.why_not_failed(unmasked_report(**changes)), changes)


if __name__ == "__main__":
    unittest.main()

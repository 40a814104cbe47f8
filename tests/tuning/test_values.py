"""Each value says why it is there.

Run with: python3 -m unittest discover --start-directory tests/tuning
"""

import re
import unittest

import fixture

FIELDS = ["Reason", "Unit", "Cost", "Source"]


def blocks(text):
    """The lines that set something, each with the comment block above it."""
    comment = []
    for line in text.splitlines():
        if re.match(r"#( |$)", line):
            comment.append(line)
        elif line.strip():
            yield line, comment
            comment = []
        else:
            comment = []


def missing_fields(comment, fields):
    return [name for name in fields if not any(re.match(rf"# {name}:\s+\S", line) for line in comment)]


class Values(unittest.TestCase):
    """The files with values."""

    def test_a_missing_field_is_noticed(self):
        sample = "# Reason: because\n# Unit: bytes\n# Source: tcp(7)\na = 1\n"
        ((_, comment),) = blocks(sample)
        self.assertEqual(missing_fields(comment, FIELDS), ["Cost"])

    def test_sysctls_have_all_fields_and_a_rule(self):
        text = (fixture.TUNING / "sysctl.d/90-ringwire.conf").read_text()
        keys = []
        for line, comment in blocks(text):
            self.assertRegex(line, r"^[-#]?[a-z0-9_.-]+ = \S.*$")
            self.assertEqual(missing_fields(comment, [*FIELDS, "Rule"]), [], line)
            keys.append(line.split(" = ")[0].lstrip("-#"))
        self.assertGreater(len(keys), 10)
        self.assertEqual(len(keys), len(set(keys)), "a key stands twice")
        readme = (fixture.TUNING / "README.md").read_text()
        for key in keys:
            self.assertIn(f"`{key}`", readme, "the table of the README lacks a value")

    def test_limits_have_all_fields(self):
        text = (fixture.TUNING / "limits.d/90-ringwire.conf").read_text()
        lines = list(blocks(text))
        self.assertEqual([line.split()[2] for line, _ in lines], ["nofile", "memlock"])
        for line, comment in lines:
            self.assertEqual(missing_fields(comment, FIELDS), [], line)

    def test_limits_of_unit_and_login_are_the_same(self):
        limits = (fixture.TUNING / "limits.d/90-ringwire.conf").read_text()
        unit = (fixture.TUNING / "systemd/ringwire.service").read_text()
        values = {line.split()[2]: int(line.split()[3]) for line, _ in blocks(limits)}
        self.assertIn(f"\nLimitNOFILE={values['nofile']}\n", unit)
        self.assertIn(f"\nLimitMEMLOCK={values['memlock'] // 1024}M\n", unit)

    def test_settings_of_the_unit_have_all_fields(self):
        text = (fixture.TUNING / "systemd/ringwire.service").read_text()
        found = {line.split("=")[0]: missing_fields(comment, FIELDS) for line, comment in blocks(text)}
        for name in ["LimitNOFILE", "LimitMEMLOCK", "TasksMax", "MemorySwapMax", "OOMScoreAdjust"]:
            self.assertEqual(found[name], [], name)

    def test_every_script_explains_itself(self):
        for script in ["apply", "check", "revert", "irq-affinity"]:
            text = fixture.call(script, "--help")
            self.assertIn(f"usage: {script}", text)
            self.assertIn("--root DIR", text)
            self.assertIn("Exit codes:", text)
            self.assertIn("unknown option '--nonsense'", fixture.call(script, "--nonsense", code=2))


if __name__ == "__main__":
    unittest.main()

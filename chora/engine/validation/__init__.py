"""Validation of texts, configs and collections: rules, their checks, and the findings.

What a check finds is a *finding*: `RuleFinding` until it has a severity, then `Finding` or `MemberFinding`. Results of
tools list them as `issues`, the name of the field on the wire; only there, and where a config is parsed, is the word
*issue* used.
"""

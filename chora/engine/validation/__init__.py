"""Validating: rules and checks for texts and configs, and what they find."""

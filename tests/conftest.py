"""Fixtures that several test files share."""

pytest_plugins = ["nnunet_fixtures"]

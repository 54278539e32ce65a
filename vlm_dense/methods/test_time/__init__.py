"""Test-time adaptation of a classifier."""

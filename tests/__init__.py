"""Tests, laid out as the package is; shared helpers lie beside them."""

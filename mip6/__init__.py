"""What both ends of the multiple-binding agent share: codecs, engines' vocabulary, data plane, system access.

Everything here but `dataplane` and `system` is pure: no socket, clock, file or random source. `now` and randomness
come in as arguments. `tests/test_purity.py` holds this line.
"""

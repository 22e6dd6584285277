"""Property tests try the same examples every time, as long as they take."""

from hypothesis import settings

settings.register_profile("weft", derandomize=True, deadline=None, database=None, print_blob=False)
settings.load_profile("weft")

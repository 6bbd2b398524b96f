from lpm_stream_tests.control.conftest import store, url

__all__ = ["store", "url"]

"""What holds for every adapter, as checks that anybody can run against their own.

Plain async functions that raise AssertionError: no test framework is needed to run them.
"""

"""The domain of Lockgate: what a deployment is and how it is driven.

Knows no view, url, socket or template. Read `states.py` first, then `planning.py`,
`verdicts.py` and `engine.py`.
"""

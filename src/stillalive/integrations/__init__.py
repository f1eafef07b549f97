"""What other libraries need a few lines for; one module per library, imported on its own.

``prometheus``: a collector of a Guard's counters (needs ``prometheus_client``).
"""

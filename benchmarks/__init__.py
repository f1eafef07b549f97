"""What tune, check, describe and probe cost, beside the limit and beside pure Python.

``python -m benchmarks`` measures; ``python -m benchmarks --smoke`` only shows
in a few seconds that everything runs, its figures mean nothing.
"""

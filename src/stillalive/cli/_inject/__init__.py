"""What ``stillalive run`` puts first on PYTHONPATH: nothing but sitecustomize.py."""

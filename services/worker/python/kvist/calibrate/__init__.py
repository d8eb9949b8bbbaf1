"""Makes the profile of codec q from a model and texts: `python -m kvist.calibrate` or `kvist calibrate`. README.md of this folder says how."""

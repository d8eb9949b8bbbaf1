"""What a codec does to a model's answers, measured: `python -m kvist.eval` or `kvist eval`. README.md of this folder says what."""

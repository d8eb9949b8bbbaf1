#!/bin/sh
# Runs a Python test of this folder with the system's Python: standard library only, nothing installed.
exec /usr/bin/python3 -B "$(dirname "$0")/$1"

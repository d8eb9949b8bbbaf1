#!/bin/sh
# Runs a program of this folder with the arguments of the test.
exec "$@"

#!/bin/bash
# What `on` runs on another machine: a command, or a function of these scripts.
. "$(dirname "$0")/steps.sh"
"$@"

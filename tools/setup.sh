#!/bin/sh
# setup.sh PYTHON FOLDER: makes a virtual environment in FOLDER and installs ghostfleet into it, to be edited in place.
# PYTHON is tried first, then the newest Python that is found. Does nothing twice; run it again after a failure.
set -eu

fail() {
	echo "ghostfleet setup: $1" >&2
	exit 1
}

fits() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

folder=$2
if ! [ -x "$folder/bin/python" ] || ! fits "$folder/bin/python"; then
	python=
	for candidate in "$1" python3.14 python3.13 python3.12 python3.11; do
		if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
			python=$candidate
			break
		fi
	done
	[ -n "$python" ] || fail "needs Python 3.11 or newer; install one, or name it: make setup PYTHON=/path/to/python3"
	"$python" -c 'import ensurepip, venv' 2>/dev/null ||
		fail "$python has no venv module; install it (Debian, Ubuntu: apt install python3-venv) and try again"
	"$python" -m venv --clear "$folder" || fail "$python could not make a virtual environment in $folder"
fi
echo "Installing ghostfleet and its tools into $folder ..." >&2
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[operator,dev]' ||
	fail "pip could not install the packages; its message above says why"

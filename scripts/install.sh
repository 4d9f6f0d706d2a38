#!/usr/bin/env bash
# Installs flashbias-fold with the pinned requirements of this machine's kind. `make install` and the
# Dockerfile both come through here. What is already installed is not installed again.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/install.sh [--venv DIR] [--set auto|cpu|gpu] [--cluster] [--dev] [--editable] [--requirements-only]

  --venv DIR            install into this virtual environment, and create it if it is not there
                        (default: the environment that $PYTHON, or python3, belongs to)
  --set SET             the requirements: gpu, cpu, or auto (default): $FLASHBIAS_FOLD_SET, else those that
                        the environment already has, else gpu where nvidia-smi finds a GPU, else cpu
  --cluster             also Ray, for predict --engine ray (80 MB more to download)
  --dev                 also Ray, and what the tests and the linters need
  --editable            use the code of this folder in place, instead of a copy of it
  --requirements-only   everything but flashbias-fold itself

Python 3.11 or later is looked for as $PYTHON, else python3, python3.12, python3.11. pip is told nothing
about where packages come from: its own configuration and its PIP_... variables apply.
USAGE
}

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

venv='' set=auto cluster='' dev='' editable='' requirements_only=''
while [ $# -gt 0 ]; do
    case $1 in
        --venv) [ $# -ge 2 ] || die '--venv needs a folder'; venv=$2; shift ;;
        --set) [ $# -ge 2 ] || die '--set needs auto, cpu or gpu'; set=$2; shift ;;
        --cluster) cluster=yes ;;
        --dev) cluster=yes dev=yes ;;
        --editable) editable=yes ;;
        --requirements-only) requirements_only=yes ;;
        -h | --help) usage; exit ;;
        *) usage >&2; die "unknown option '$1'" ;;
    esac
    shift
done
case $set in auto | cpu | gpu) ;; *) die "--set is auto, cpu or gpu, and not '$set'" ;; esac

# A folder given relative to where the user is stays that folder.
case $venv in '' | /*) ;; *) venv=$PWD/$venv ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
        if recent_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or later is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
        'Set PYTHON to one.'
}

# The interpreter to install for, in $python; creates the virtual environment where one is asked for.
python=$venv/bin/python
if [ -z "$venv" ]; then
    python=$(find_python)
elif [ ! -e "$venv" ]; then
    base=$(find_python)
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$base cannot create virtual environments. On Debian and Ubuntu: apt install python3-venv"
    say "creating $venv with $("$base" --version)"
    "$base" -m venv "$venv"
elif ! recent_enough "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
    die "$venv is not a working environment with Python 3.11 or later: remove it, or choose another folder"
fi

# What is installed is noted in stamps: the name of the set, and a hash of what it was installed from.
stamps=$("$python" -c 'import sys; print(sys.prefix)')/.flashbias-fold
mkdir -p "$stamps"

choose_set() {
    if [ "$set" != auto ]; then echo "$set"
    elif [ -n "${FLASHBIAS_FOLD_SET:-}" ]; then echo "$FLASHBIAS_FOLD_SET"
    elif [ -e "$stamps/requirements" ]; then cut -d ' ' -f 1 "$stamps/requirements"
    elif nvidia-smi -L >/dev/null 2>&1; then echo gpu
    else echo cpu
    fi
}

hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

# needed NAME STAMP MESSAGE: whether NAME has to be done. The old stamp goes first, so that an interrupted
# installation is never taken for a complete one.
needed() {
    [ "$(cat "$stamps/$1" 2>/dev/null)" != "$2" ] || return 1
    rm -f "$stamps/$1"
    say "$3"
}
done_with() { printf '%s\n' "$2" >"$stamps/$1"; }

# Both sets hold another torch than Protenix pins, on purpose: pip need not warn of it.
pip_install() { "$python" -m pip install --quiet --quiet --disable-pip-version-check --no-warn-conflicts "$@"; }

set=$(choose_set)
case $set in
    cpu) size='1 to 3 GB' ;;
    gpu) size='about 6 GB' ;;
    *) die "FLASHBIAS_FOLD_SET is cpu or gpu, and not '$set'" ;;
esac

stamp="$set $(hash_of "requirements/$set.txt" requirements/protenix.txt)"
if needed requirements "$stamp" "the $set requirements ($size; some minutes)"; then
    pip_install -r "requirements/$set.txt"
    pip_install --no-deps -r requirements/protenix.txt
    # What reads chemical components imports rdkit's drawing code, which is linked to X11 even to draw files.
    "$python" -c 'import rdkit.Chem.Draw' 2>/dev/null ||
        say "rdkit misses a library of this machine. On Debian and Ubuntu: apt install libxrender1 libxext6"
    done_with requirements "$stamp"
fi

if [ -n "$cluster" ]; then
    stamp="cluster $(hash_of requirements/cluster.txt)"
    if needed cluster "$stamp" 'Ray, for campaigns'; then
        pip_install -r requirements/cluster.txt
        done_with cluster "$stamp"
    fi
fi

if [ -n "$dev" ]; then
    files=requirements/dev.txt
    [ "$set" = gpu ] || files="$files requirements/dev-cpu.txt"
    # shellcheck disable=SC2086  # several words
    stamp="dev $(hash_of $files)"
    if needed dev "$stamp" 'what the tests and the linters need'; then
        # shellcheck disable=SC2086
        pip_install $(printf -- '-r %s ' $files)
        done_with dev "$stamp"
    fi
fi

[ -z "$requirements_only" ] || exit 0

# Code that is used in place needs no second installation when it changes; a copy does.
if [ -n "$editable" ]; then
    stamp="editable $root $(hash_of pyproject.toml flashbias_fold/__init__.py)"
    if needed package "$stamp" "flashbias-fold, from $root in place"; then
        pip_install --no-deps --editable .
        done_with package "$stamp"
    fi
else
    mapfile -d '' files < <(find pyproject.toml flashbias_fold kernels configs data -type f -print0 | sort -z)
    stamp="copy $(hash_of "${files[@]}")"
    if needed package "$stamp" 'flashbias-fold'; then
        pip_install --no-deps --force-reinstall .
        done_with package "$stamp"
    fi
fi
say "ready: $(dirname "$python")/flashbias-fold"

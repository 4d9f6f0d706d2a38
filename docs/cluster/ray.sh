#!/bin/bash
# Ray on machines of your own, without a scheduler:
#
#     docs/cluster/ray.sh head                   on one machine; it says the address
#     docs/cluster/ray.sh worker HEAD:6379       on each of the others
#     flashbias-fold predict targets/ --out preds/ --engine ray --address HEAD:6379      on any of them
#     ray stop                                   on each of them, at the end
#
# Paths have to be seen by all machines, and ~/.ray/auth_token to be the same file or a copy. PORT is another port.
set -euo pipefail

role=${1-} head=${2-}
if ! [[ ($role == head && $# == 1) || ($role == worker && $# == 2) ]]; then
    echo "usage: $0 head | worker HEAD:PORT" >&2
    exit 2
fi

# Ray tells its makers about its use unless this is set. The token keeps others on the network out: who can talk to
# a Ray cluster can run anything on it.
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token

# Only small reports go through Ray's object store, for which it would set aside a third of the memory.
if [[ $role == head ]]; then
    ray get-auth-token --generate > /dev/null
    ray start --head --port="${PORT:-6379}" --include-dashboard=false --object-store-memory=268435456
    echo "before flashbias-fold, in its shell: export RAY_AUTH_MODE=token"
else
    ray start --address="$head" --object-store-memory=268435456
fi

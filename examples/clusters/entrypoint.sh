#!/bin/sh
# The chart starts `dask-scheduler` and `dask-worker`; newer Dask has `dask scheduler` and `dask worker`.
case "$1" in
    dask-*)
        role=${1#dask-}
        shift
        set -- dask "$role" "$@"
        ;;
esac
exec "$@"

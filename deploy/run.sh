#!/bin/sh
# What a run's container does first: undo what would keep bubblewrap and cgroups from working inside it.
set -eu
# Docker masks parts of /proc, and the kernel then lets nobody mount one in a namespace below. This one is unmasked.
mount -t proc proc /proc
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  # Version 2: a group that hands out controllers may hold no process itself. Where this does not work, the limits of
  # total memory and process count are not claimed: `formulamine doctor` says so, and a run needs `trust`.
  mount -o remount,rw /sys/fs/cgroup \
    && mkdir -p /sys/fs/cgroup/init \
    && for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$pid" >/sys/fs/cgroup/init/cgroup.procs || true; done
else
  for hierarchy in memory pids; do mount -o remount,rw,bind "/sys/fs/cgroup/$hierarchy"; done
fi
exec "$@"

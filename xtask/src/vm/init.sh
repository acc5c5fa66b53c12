#!/bin/busybox sh
# The first process of a machine: prepares it, runs /command, tells how that ended, switches off.
#
# ttyS0 is the kernel's console, ttyS1 the command's terminal, ttyS2 takes what is reported.

# busybox serves what no real program does: behind all others on PATH.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /sbin /var/log/nginx /var/lib/nginx \
    /usr/lib/busybox
/bin/busybox --install -s /usr/lib/busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/busybox HOME=/root TERM="${TERM:-vt100}"
# Where the kernel looks for it when it wants a module.
ln -sf /bin/busybox /sbin/modprobe

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /dev/pts /dev/shm
mount -t devpts pts /dev/pts
ln -sf /proc/self/fd /dev/fd

hostname weir-vm
ifconfig lo 127.0.0.1 up
ulimit -l unlimited
ulimit -n 65536

stty -F /dev/ttyS2 raw
stty -F /dev/ttyS1 -onlcr
export WEIR_REPORT=/dev/ttyS2
setsid -c /bin/sh /command </dev/ttyS1 >/dev/ttyS1 2>&1
echo "exit $?" >/dev/ttyS2

# Until the last byte has left.
stty -F /dev/ttyS1 sane
stty -F /dev/ttyS2 sane
poweroff -f

#!/bin/bash
# Brings eth0 up from the kernel's ip= parameter:
# ip=<client>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>

DEADLINE_STEPS=60 # of half a second each

say() { echo "$*"; }

say "=== Network Setup Script Started at $(date) ==="

IP=/sbin/ip
[ -x "$IP" ] || IP=$(command -v ip)
say "Using ip command: $IP"

cmdline=$(cat /proc/cmdline)
say "Kernel cmdline: $cmdline"

if ! grep -q '\bip=' /proc/cmdline; then
  say "No kernel IP parameter found, relying on DHCP/systemd-networkd"
  exit 0
fi
param=$(sed -n 's/.*\bip=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -z "$param" ]; then
  say "ERROR: Empty ip parameter extracted from cmdline"
  exit 1
fi
say "Found kernel IP parameter: $param"

client=$(echo "$param" | cut -d: -f1)
gateway=$(echo "$param" | cut -d: -f3)
netmask=$(echo "$param" | cut -d: -f4)
device=$(echo "$param" | cut -d: -f6)
if [ -z "$client" ] || [ -z "$gateway" ] || [ -z "$device" ]; then
  say "ERROR: Missing required parameters (client_ip, gw_ip, or device)"
  exit 1
fi

prefix=0
for octet in $(echo "${netmask:-255.255.255.0}" | tr . ' '); do
  while [ "$octet" -gt 0 ]; do
    prefix=$((prefix + (octet & 1)))
    octet=$((octet >> 1))
  done
done

say "Waiting for device $device to appear..."
attempts=0
while ! "$IP" link show "$device" >/dev/null 2>&1; do
  attempts=$((attempts + 1))
  if [ "$attempts" -ge "$DEADLINE_STEPS" ]; then
    say "ERROR: Device $device not found after 30 seconds"
    "$IP" link show
    exit 1
  fi
  sleep 0.5
done
say "Device $device found after $attempts attempts"

if ! "$IP" link set "$device" up; then
  say "ERROR: Failed to bring up $device"
  exit 1
fi
say "Device $device is UP"

if ! "$IP" addr add "$client/$prefix" dev "$device"; then
  say "ERROR: Failed to assign IP address"
  exit 1
fi
say "IP address assigned"

if "$IP" route add default via "$gateway" dev "$device"; then
  say "Default route added"
else
  say "WARNING: Failed to add default route (may already exist)"
fi

say "=== Network setup complete at $(date) ==="

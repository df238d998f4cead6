#!/bin/bash
# The network as a shell script of the image sets it up from ip= (the kernel's nfsroot document), with the markers that operators
# look for in console.log. Kept as it was in the field, its habits included.
echo "=== Network Setup Script Started at $(date) ==="
IP=$(command -v ip || echo /sbin/ip)
echo "Using ip command: $IP"
cmdline=$(cat /proc/cmdline)
echo "Kernel cmdline: $cmdline"
param=$(grep -o '\bip=[^ ]*' <<<"$cmdline" | head -n 1)
if [ -z "$param" ]; then
  echo "No kernel IP parameter found, relying on DHCP/systemd-networkd"
  exit 0
fi
echo "Found kernel IP parameter: $param"
value=${param#ip=}
if [ -z "$value" ]; then
  echo "ERROR: Empty ip parameter extracted from cmdline"
  exit 1
fi
IFS=: read -r client _ gateway netmask _ device _ <<<"$value"
if [ -z "$client" ] || [ -z "$gateway" ] || [ -z "$device" ]; then
  echo "ERROR: Missing required parameters (client_ip, gw_ip, or device)"
  exit 1
fi
prefix=0
for octet in ${netmask//./ }; do
  while [ "$octet" -gt 0 ]; do
    prefix=$((prefix + (octet & 1)))
    octet=$((octet >> 1))
  done
done
echo "Waiting for device $device to appear..."
attempts=0
until $IP link show "$device" >/dev/null 2>&1; do
  attempts=$((attempts + 1))
  if [ "$attempts" -ge 60 ]; then
    echo "ERROR: Device $device not found after 30 seconds"
    $IP link show
    exit 1
  fi
  sleep 0.5
done
echo "Device $device found after $attempts attempts"
$IP link set "$device" up || { echo "ERROR: Failed to bring up $device"; exit 1; }
echo "Device $device is UP"
$IP addr add "$client/$prefix" dev "$device" || { echo "ERROR: Failed to assign IP address"; exit 1; }
echo "IP address assigned"
$IP route add default via "$gateway" || echo "WARNING: Failed to add default route (may already exist)"
echo "Default route added"
echo "=== Network setup complete at $(date) ==="

#!/bin/sh
# Try the package on a bare Debian: install, first run, an answer, tray and chat, upgrade, purge. As root; about 10 minutes.
# usage: installers/linux/try_in_chroot.sh FOLDER OLD.deb NEW.deb
#   FOLDER gets the system (debootstrap) unless it is there already; it is changed, and kept.
# Environment: SUITE (bookworm), MIRROR (http://deb.debian.org/debian);
#   PIP_CONF, a file that becomes /etc/pip.conf there, and BIND, folders that it names: for machines without PyPI;
#   DISPLAY and DBUS_SESSION_BUS_ADDRESS (unix:path=...) of a desktop with a tray, for the tray to appear in.
set -eu
folder=$1 old=$(readlink -f "$2") new=$(readlink -f "$3")
[ "$(id -u)" = 0 ] || { echo 'try_in_chroot.sh: needs root' >&2; exit 1; }

if [ "${IN_NAMESPACE:-}" != 1 ]; then
    [ -x "$folder/bin/sh" ] || debootstrap --variant=minbase "${SUITE:-bookworm}" "$folder" "${MIRROR:-http://deb.debian.org/debian}"
    exec env IN_NAMESPACE=1 unshare --mount --pid --fork --kill-child "$0" "$folder" "$old" "$new"
fi

for mounted in proc sys dev dev/pts dev/shm; do
    mkdir -p "$folder/$mounted"
done
mount -t proc proc "$folder/proc"
mount --rbind /dev "$folder/dev"
mount -t tmpfs tmpfs "$folder/dev/shm"
for bound in ${BIND:-}; do
    mkdir -p "$folder$bound" && mount --bind "$bound" "$folder$bound"
done
if [ -n "${DISPLAY:-}" ]; then
    mkdir -p "$folder/tmp/.X11-unix" && mount --bind /tmp/.X11-unix "$folder/tmp/.X11-unix"
    bus=${DBUS_SESSION_BUS_ADDRESS#unix:path=}
    mkdir -p "$folder/run/desktop" && mount --bind "$(dirname "${bus%%,*}")" "$folder/run/desktop"
    bus=unix:path=/run/desktop/$(basename "${bus%%,*}")
fi
cp /etc/resolv.conf /etc/hosts "$folder/etc/"
[ -z "${PIP_CONF:-}" ] || cp "$PIP_CONF" "$folder/etc/pip.conf"
mkdir -p "$folder/usr/local/share/trusted" "$folder/root"
cp /etc/ssl/certs/ca-certificates.crt "$folder/usr/local/share/trusted/" 2>/dev/null || :
cp "$old" "$folder/root/old.deb" && cp "$new" "$folder/root/new.deb"

inside() { chroot "$folder" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
owner() { # as the machine's owner, who is not root
    inside setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/home/owner TERM=xterm-256color \
        ${PIP_CONF:+PIP_CERT=/usr/local/share/trusted/ca-certificates.crt} "$@"
}
step() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - began))"; }
must() { "$@" || { echo "FAILED: $*"; exit 1; }; }
expect() { code=$1; shift; set +e; "$@"; got=$?; set -e; [ "$got" = "$code" ] || { echo "FAILED: exit $got instead of $code: $*"; exit 1; }; }
began=$(date +%s)

step 'install'
inside apt-get -qq update
inside id owner >/dev/null 2>&1 || inside useradd --create-home --shell /bin/sh owner
# what it depends on stays after a purge, so that it is no part of what is counted
must inside apt-get -qq -y install --no-install-recommends python3-venv
inside find / -xdev -path /proc -prune -o -path /home -prune -o -print | sort >"$folder.before"
must inside apt-get -qq -y install --no-install-recommends /root/old.deb
must owner peerllm version
expect 3 owner peerllm status
expect 4 owner peerllm chat </dev/null
expect 4 owner peerllm tray
expect 1 owner peerllm list

step 'the first run sets itself up'
# lends however busy the machine is that this is tried on
must owner script -qec 'peerllm up --share --no-mdns --set contribution.memory_bytes=2GiB --set guest.policy=custom --set guest.most_others_cores=1 --set guest.idle_after_s=0 --set guest.hours=' /home/owner/first-run
must owner peerllm status
step 'the daemon answers with the embedded model'
must owner peerllm run smollm2-135m 'Why is the sky blue?' --stats --max-tokens 24
step 'chat starts'
expect 124 owner timeout 8 script -qec 'peerllm chat' /home/owner/chat
must grep -qa 'smollm2' "$folder/home/owner/chat"
if [ -n "${DISPLAY:-}" ]; then
    step 'the tray starts'
    owner DISPLAY="$DISPLAY" DBUS_SESSION_BUS_ADDRESS="$bus" peerllm tray &
    tray=$!
    sleep 8
    must kill -0 "$tray"
    [ -z "${AT_TRAY:-}" ] || must $AT_TRAY
    kill "$tray" && wait "$tray" || :
fi
must owner peerllm down

step 'upgrade keeps state'
before=$(owner sha256sum /home/owner/.local/state/peerllm/identity.key)
must inside apt-get -qq -y install --no-install-recommends /root/new.deb
must owner peerllm version
must owner script -qec 'peerllm up --no-mdns' /home/owner/second-run
must owner peerllm status
must owner peerllm list
[ "$before" = "$(owner sha256sum /home/owner/.local/state/peerllm/identity.key)" ] || { echo 'FAILED: another identity'; exit 1; }
must owner peerllm down

step 'purge'
must inside apt-get -qq -y purge peerllm
inside find / -xdev -path /proc -prune -o -path /home -prune -o -print | sort >"$folder.after"
echo 'left outside /home:'
if comm -13 "$folder.before" "$folder.after" | grep -v -E '^/(var/(lib/(apt|dpkg)|cache|log)|root|tmp|run)(/|$)'; then
    echo 'FAILED: files are left'
    exit 1
fi
echo '  nothing'
echo 'left in the home:'
inside find /home/owner -maxdepth 4 -path '*peerllm*' -not -path '*/venv/*' | sed 's/^/  /'
step 'done'
